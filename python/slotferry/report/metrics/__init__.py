"""What a run tells a monitoring system: figures by the ecosystem's names, served or written to a file.

Invariant: see the modules.
"""
