"""What balance is wanted, and the moves that lead to it.

Invariant: making a plan changes nothing.
"""
