"""How one server is reached: addresses, TLS, login, one connection, and what its replies hold.

Invariant: nothing is sent twice, nothing waits without a limit, and no secret is shown.
"""
