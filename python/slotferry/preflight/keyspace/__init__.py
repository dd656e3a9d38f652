"""What the keyspace consists of: samples, patterns, sizes, places.

Invariant: keys are only looked at.
"""
