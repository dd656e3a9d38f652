"""Resharding: plans, moves, interruptions and mending."""
