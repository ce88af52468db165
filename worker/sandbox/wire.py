"""Values that travel between the sockets and the provider behind them; decides nothing.

`Request` is what arrived, `Answer` is what the provider says, `Delivery` is how much of that reaches the client.
"""

import enum
import json
from dataclasses import dataclass
from html import escape

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it arrived, its body read to the end."""

    method: str
    path: str
    query: str
    headers: Headers
    """As spelled by the client, in its order."""
    body: bytes
    is_too_large: bool = False
    """The body was above the limit; it was read, and thrown away."""
    connection: int
    """Number of the connection it came on, counted from 1."""
    is_first_on_connection: bool

    def header(self, name: str) -> str | None:
        """Find a header whatever its case."""
        wanted = name.lower()

        return next((value for spelled, value in self.headers if spelled.lower() == wanted), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One complete answer of the provider."""

    status: int
    headers: Headers = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Find a header by its exact name."""
        return next((value for spelled, value in self.headers if spelled == name), None)


class Ending(enum.Enum):
    """What becomes of the connection after a delivery."""

    KEEP = enum.auto()  # as HTTP/1.1 has it
    CLOSE = enum.auto()  # closed in good order
    RESET = enum.auto()  # torn down, so that the client sees a reset


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How an answer reaches the client, or fails to."""

    answer: Answer | None
    """None: not one byte is sent."""
    hold_seconds: float | None = 0.0
    """Before anything is sent; None: until the client goes away."""
    drip_seconds: float = 0.0
    """Spread the bytes over so long."""
    missing_bytes: int = 0
    """Content-Length promises so many bytes more than come."""
    ending: Ending = Ending.KEEP


def json_answer(status: int, content: object, *, headers: Headers = ()) -> Answer:
    """Build an answer with a JSON body."""
    body = json.dumps(content, separators=(",", ":")).encode()

    return Answer(status=status, headers=(*headers, ("Content-Type", "application/json")), body=body)


def html_answer(status: int, title: str, *, headers: Headers = ()) -> Answer:
    """Build an answer with the kind of page that gateways and login walls send."""
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"

    return Answer(status=status, headers=(*headers, ("Content-Type", "text/html; charset=utf-8")), body=page.encode())


def xml_answer(status: int, *messages: tuple[str | None, str | None, str]) -> Answer:
    """Build an answer with BlueSnap's errors in XML, each of them name, code and description."""
    parts = "".join(
        f"<message>{_element('error-name', name)}{_element('code', code)}{_element('description', text)}</message>"
        for name, code, text in messages
    )
    page = f'<?xml version="1.0" encoding="UTF-8"?>\n<messages xmlns="http://ws.plimus.com">{parts}</messages>\n'

    return Answer(status=status, headers=(("Content-Type", "application/xml"),), body=page.encode())


def bare_xml_answer(status: int, text: str) -> Answer:
    """Build an answer with the one line of XML that comes from what stands before BlueSnap."""
    line = f"<xml>{escape(text, quote=False)}</xml>"

    return Answer(status=status, headers=(("Content-Type", "application/xml"),), body=line.encode())


def _element(name: str, text: str | None) -> str:
    return "" if text is None else f"<{name}>{escape(text, quote=False)}</{name}>"


def read_json(body: bytes) -> object:
    """Read a JSON text; whatever is no JSON raises ValueError, however it fails to be."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        msg = "nested too deeply"
        raise ValueError(msg) from error


def _refuse_constant(name: str) -> None:
    msg = f"{name} is not JSON"
    raise ValueError(msg)
