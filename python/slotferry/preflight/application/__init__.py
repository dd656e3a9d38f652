"""What the application asks of its server, and what a cluster will not do for it.

Invariant: what clients send is read, and never kept.
"""
