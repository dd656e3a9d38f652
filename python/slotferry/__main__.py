"""`python -m slotferry`: the command, where its script is not on the PATH.

Invariant: it is the same as `slotferry`.
"""

import sys

from slotferry.cli import main

if __name__ == "__main__":
    sys.exit(main())
