"""Moving slots: from the claim of a slot to its end at every node.

Invariant: no key is given up at its source before the cluster agrees on the new owner.
"""
