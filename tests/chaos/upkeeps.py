"""`python -m tests.chaos.upkeeps N`: upkeep N times at once, in N processes of one parent.

Decides nothing: each child does what `post-purchase upkeep` does. A fork is cheaper than N interpreters that start.
"""

from __future__ import annotations

import os
import sys
import threading

from worker.config import load
from worker.duties import duties, keep_up
from worker.wiring import Services


def main() -> None:
    """Fork, and tick in every child until killed."""
    children = []
    for _ in range(int(sys.argv[1])):
        child = os.fork()
        if child == 0:
            keep_up(duties(Services(load())), threading.Event())
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
