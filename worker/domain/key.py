"""Who a command is: its own id, its idempotency key, and the fingerprint of what it asks.

Decides how an id sorts, from which facts a key is derived and which bytes a fingerprint covers. Leaves to the
store that a key is unique per account, and to the providers how a key travels.

The house rule "no clock, no chance in the domain" ends at `new_id`: an id needs both, and neither time nor chance
decides anything here. The time in an id orders ids and nothing else; what is due is decided by the database's clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from uuid import UUID, uuid5

#: The namespace of every idempotency key. It never changes: a key derived under another namespace is another key,
#: and a command that is repeated under another key is paid twice.
NAMESPACE = UUID("f7cf0192-8f99-4978-9853-612f976587d3")

#: What `uuid7` takes: 74 of these bits go into the id.
RANDOM_BYTES = 10


def new_id() -> UUID:
    """Give a new command its id; later ids sort after earlier ones, to the millisecond."""
    return uuid7(time.time_ns() // 1_000_000, random_bytes=os.urandom(RANDOM_BYTES))


def uuid7(now_ms: int, *, random_bytes: bytes) -> UUID:
    """Build a UUID of version 7 (RFC 9562) from a Unix time in milliseconds and ten random bytes."""
    if not 0 <= now_ms < 1 << 48:
        raise ValueError(f"now_ms must fit into 48 bits, not {now_ms}")
    if len(random_bytes) != RANDOM_BYTES:
        raise ValueError(f"random_bytes must be {RANDOM_BYTES} bytes long, not {len(random_bytes)}")

    chance = int.from_bytes(random_bytes, "big")
    high = chance >> 62 & 0xFFF
    low = chance & (1 << 62) - 1

    return UUID(int=now_ms << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)


def idempotency_key(*, account: str, kind: str, order_id: str, target: str | None, reference: str) -> UUID:
    """Derive the key under which the provider recognises a repeat; the same facts always give the same key.

    Args:
        account: The account's name, which is its identity for ever.
        kind: The kind of the command.
        order_id: The order it is about.
        target: The capture, refund or transaction it is about, else None.
        reference: The business reference. A command without one passes its own id as text, and so shares its key
            with no other command.
    """
    # A JSON array keeps the parts apart: no character in one of them can make two different commands look alike.
    name = json.dumps([account, kind, order_id, target, reference], ensure_ascii=False, separators=(",", ":"))

    return uuid5(NAMESPACE, name)


def fingerprint(payload: bytes, *, keyed: bool) -> str:
    """Hash what a key stands for: the exact bytes, and whether they are sent under the key at all."""
    return hashlib.sha256((b"keyed:" if keyed else b"unkeyed:") + payload).hexdigest()
