"""Slotferry's tests; everything that needs a server uses a real one (see `tests.servers`)."""
