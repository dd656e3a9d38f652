"""What every kind of job needs: journal, lock, control, options, and the driver of the engine.

Invariant: what a job has acknowledged is in the journal; one process at a time runs a job.
"""
