"""What a run tells the standard `logging`: a record for each event, by the logger `slotferry`.

Invariant: see the modules.
"""
