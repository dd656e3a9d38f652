"""What every command does: help, colours, streams, endings, and asking a running job.

Invariant: nothing here runs a job.
"""
