"""`slotferry jobs`: what became of runs, and requests to those that are under way.

Invariant: looking at a job changes nothing of it, and never waits for its run.
"""
