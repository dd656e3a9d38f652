"""Values that the other rooms pass to each other: addresses, keys, counts, events, reports.

Invariant: frozen values; nothing here opens a connection or a file.
"""
