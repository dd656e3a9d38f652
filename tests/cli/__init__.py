"""The command `slotferry` as a user runs it: output, exit codes, signals."""
