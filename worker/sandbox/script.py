"""Decides which request a scripted fault befalls, and uses the script up; what then happens is `faults.py`."""

import re
from dataclasses import dataclass

from .errors import SandboxError
from .faults import ONLY_AT, CloseIdle, Fault, build_fault
from .wire import Request


@dataclass(slots=True, kw_only=True)
class _Scripted:
    """A fault that waits for its requests."""

    kind: str
    fault: Fault
    order_id: str | None
    path: re.Pattern[str] | None
    method: str | None
    times: int | None
    skip: int

    def befalls(self, request: Request, *, provider: str, order_id: str | None) -> bool:
        """Tell whether a request is one of those that the fault waits for."""
        return (
            ONLY_AT.get(self.kind, provider) == provider
            and self.method in (None, request.method)
            and self.order_id in (None, order_id)
            and (self.path is None or self.path.search(request.path) is not None)
            and not (isinstance(self.fault, CloseIdle) and request.is_first_on_connection)
        )


class Script:
    """The faults to come, in the order in which they were written down; the first that fits befalls a request."""

    def __init__(self) -> None:
        self._scripted: list[_Scripted] = []

    def __len__(self) -> int:
        return len(self._scripted)

    def add(
        self,
        kind: str,
        *,
        order_id: str | None = None,
        path: str | None = None,
        method: str | None = None,
        times: int | None = 1,
        skip: int = 0,
        **options: object,
    ) -> None:
        """Write a fault down for the next requests that fit, after leaving the first few of them alone."""
        if times is not None and times < 1:
            msg = f"times must be 1 or more, or null for ever, got {times}"
            raise SandboxError(msg)
        if skip < 0:
            msg = f"skip must be 0 or more, got {skip}"
            raise SandboxError(msg)
        self._scripted.append(
            _Scripted(
                kind=kind,
                fault=build_fault(kind, options),
                order_id=order_id,
                path=_pattern(path),
                method=None if method is None else method.upper(),
                times=times,
                skip=skip,
            )
        )

    def take(self, request: Request, *, provider: str, order_id: str | None) -> tuple[str, Fault] | None:
        """Take the fault that befalls a request, and use it up by one; nothing runs in between, so two never share."""
        for scripted in self._scripted:
            if not scripted.befalls(request, provider=provider, order_id=order_id):
                continue
            if scripted.skip:
                scripted.skip -= 1
                continue
            if scripted.times is not None:
                scripted.times -= 1
                if not scripted.times:
                    self._scripted.remove(scripted)
            return scripted.kind, scripted.fault
        return None

    def clear(self) -> None:
        """Strike out all faults to come."""
        self._scripted.clear()


def _pattern(path: str | None) -> re.Pattern[str] | None:
    try:
        return None if path is None else re.compile(path)
    except re.error as error:
        msg = f"path must be a regular expression, got {path!r}: {error}"
        raise SandboxError(msg) from error
