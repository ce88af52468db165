"""Whom a load may be sent to: this machine, and nobody else.

Decides that before anything is started. A provider's hosts are for payments; a load that is meant for a stub must not
reach one by a slip of an address.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


class NotLoopback(Exception):
    """The target of a load is not on this machine."""


def require_loopback(url: str) -> str:
    """Return `url` if its host is a loopback address, written as one: a name could be given another address meanwhile.

    Raises:
        NotLoopback: It is anything else.
    """
    host = urlsplit(url).hostname or ""
    try:
        is_loopback = ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise NotLoopback(f"load goes to loopback addresses only, such as http://127.0.0.1:8090, and {url!r} is none")

    return url
