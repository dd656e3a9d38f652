"""Options that several commands have, and what becomes of them.

Invariant: an option of one name means the same at every command.
"""
