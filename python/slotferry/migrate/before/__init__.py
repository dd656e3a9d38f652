"""What is looked at and tried before anything is written.

Invariant: nothing here writes to either side.
"""
