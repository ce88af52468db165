"""Says what the sandbox asks of a provider that it stands in for; decides nothing.

There are two, `klarna.py` and `bluesnap.py`. What they have in common, the way of a request through them, is
`world.py`, and what can go wrong on the way `faults.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .past import Lag
from .replay import InProgress, OtherRequest, Replay
from .wire import Answer, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a request asks for, before its body is read."""

    kind: str
    order_id: str
    """The order, the transaction or the record that it is about; empty when it makes a new one."""
    target: str | None = None
    """Id of the capture or refund in the path, or the collection that a record is in."""
    key: str | None = None
    """The idempotency key, if it counts here."""
    content: bytes = b""
    """What a repeat under the same key must have in common with the first request."""

    @property
    def is_change(self) -> bool:
        """Tell a change from a read."""
        return not self.kind.startswith("read_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one execution changed in the merchant's world."""

    kind: str
    order_id: str
    amount: int | str | None = None
    """In minor units at Klarna, decimal text at BlueSnap."""
    id: str | None = None
    reference: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What came of an operation: the answer, and the effect if it changed anything."""

    answer: Answer
    effect: Effect | None = None


class Provider(Protocol):
    """One provider: how it finds its way in a request, what it does, and how it words what went wrong."""

    @property
    def name(self) -> str:
        """The provider's name in the ledger."""

    @property
    def tells_quota(self) -> bool:
        """Tell whether an answer of too many requests names the quota in headers."""

    @property
    def replay(self) -> Replay:
        """The keys that were used here."""

    def order_id_in(self, request: Request) -> str | None:
        """Find the order or transaction that a request is about, whatever it wants of it."""

    def route(self, request: Request) -> Operation | Answer:
        """Find the operation of a request; what does not exist gets the answer of the front door."""

    def execute(self, operation: Operation, request: Request, *, lag: Lag | None = None) -> Execution:
        """Carry out an operation, or refuse it; a read may be made to lag."""

    def replayed(self, answer: Answer, *, key: str) -> Answer:
        """Say how the first answer of a key goes out again."""

    def error(self, status: int, name: str | None = None) -> Answer:
        """Word an error of any status, with the provider's own name for it or with a given one."""

    def throttled(self) -> Answer:
        """Answer that there are too many requests."""

    def unauthorized(self) -> Answer:
        """Answer to missing or wrong credentials."""

    def too_large(self) -> Answer:
        """Answer to a body above the limit."""

    def key_refused(self, why: InProgress | OtherRequest) -> Answer:
        """Answer to a key that was used before and has no answer to give."""

    def without_id(self, answer: Answer, *, location: bool) -> Answer:
        """Take the id of what was made out of an answer, and `Location` too unless it may stay."""

    def act_as_stranger(self, order_id: str, *, kind: str, amount: int | str | None) -> Effect | None:
        """Let somebody else capture or refund, everything that is left if no amount is given; None if impossible."""

    def expire(self, order_id: str) -> None:
        """Let the authorization expire now."""

    def review(self, order_id: str, *, seconds: float, verdict: str) -> None:
        """Let the fraud check be pending for so long, and then come to its verdict."""

    def hold_refund(self, order_id: str, *, seconds: float, ends: str) -> None:
        """Let the next refund of the order be pending for so long, where refunds can be, and then come to its end."""

    def reuse_id(self, order_id: str | None) -> None:
        """Let the next thing that is made have the id of the last one."""

    def reset(self) -> None:
        """Begin again."""
