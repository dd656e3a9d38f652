"""The report page: one HTML file that tells of a job to people who were not there.

Invariant: see the modules.
"""
