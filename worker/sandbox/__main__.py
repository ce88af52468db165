"""`python -m worker.sandbox`: the sandbox by itself, without the command line of the rest."""

import argparse
from pathlib import Path

from .running import serve

#: What `--create-orders` without a number gives an order: 1,000.00.
_PLAY_AMOUNT = 100_000


def _say(base_url: str, control_url: str) -> None:
    print(f"sandbox {base_url} control {control_url}", flush=True)  # noqa: T201  # the answer of a command


def main() -> None:
    """Read the arguments and serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m worker.sandbox", description="A stand-in payment provider.")
    parser.add_argument("--host", default="127.0.0.1", help="address of both ports")
    parser.add_argument("--port", type=int, default=8090, help="the provider's port; 0: any free one")
    parser.add_argument("--control-port", type=int, default=8091, help="the control port; 0: any free one")
    parser.add_argument("--orders-file", type=Path, help="orders to begin with, one JSON object a line")
    parser.add_argument(
        "--create-orders",
        type=int,
        nargs="?",
        const=_PLAY_AMOUNT,
        metavar="AMOUNT",
        help=f"make an unknown order on its first use, with this amount in minor units (default {_PLAY_AMOUNT})",
    )
    arguments = parser.parse_args()
    serve(**vars(arguments), ready=_say)


if __name__ == "__main__":
    main()
