"""The account of what the target acknowledged, and whether it still has it.

Invariant: what may have been lost is looked at again before a job is called complete.
"""
