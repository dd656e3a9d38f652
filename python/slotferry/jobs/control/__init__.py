"""What steers a run from outside: requests to end, pauses and rates, windows, and the socket they come by.

Invariant: whoever asks, a run does one thing at a time about it, in its own thread.
"""
