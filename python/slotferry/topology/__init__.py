"""What both sides are: servers, Sentinels, clusters, their databases and versions.

Invariant: looking changes nothing at any server.
"""
