"""Going on with a source after the copy: what its stream touches is copied again, and doubts are compared.

Invariant: the journal's position never passes what is not at the target.
"""
