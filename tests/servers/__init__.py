"""Real servers for the tests, what fills them, what compares them and what stands in between.

Invariant: no test talks to anything but loopback, and nothing started here outlives the test process.
"""
