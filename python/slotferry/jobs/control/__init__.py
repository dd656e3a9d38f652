"""What steers a run from outside: requests to end, pauses and rates, windows, and the socket they come by.

Invariant: a request only sets a value; the run's own thread acts on it.
"""
