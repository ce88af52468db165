"""Decides which paths and methods BlueSnap's Payment API has, what each of them does, and which of them take a key.

What then is done is `bluesnap.py`.
"""

from collections.abc import Mapping
from urllib.parse import unquote

from .records import SHELF_BY_COLLECTION

PREFIX = "/services/2/"

#: Path behind the prefix, with `*` for an id → what each method does there; the first that fits counts.
_TRANSACTION_KINDS: Mapping[str, Mapping[str, str]] = {
    "transactions": {"POST": "post_transaction", "PUT": "put_transaction"},
    "transactions/refund/merchant/*": {"POST": "refund"},
    "transactions/refund/*": {"POST": "refund"},
    "transactions/pending-refund/*": {"DELETE": "cancel_pending_refund"},
    "transactions/*": {"GET": "read_transaction"},
}

_SUBSCRIPTION_CHARGES = "subscriptions/*/subscription-charges"

#: What is made there belongs to the subscription in the path.
_CHARGES = ("recurring/ondemand/*", _SUBSCRIPTION_CHARGES)

#: The one POST that is not on the published list of those that take a key.
UNKEYED = "transactions/refund/merchant/*"


def _routes() -> Mapping[str, Mapping[str, tuple[str, str]]]:
    """Path behind the prefix, with `*` for an id → method → what it does, and in which collection."""
    routes: dict[str, dict[str, tuple[str, str]]] = {
        template: {method: (kind, template) for method, kind in kinds.items()}
        for template, kinds in _TRANSACTION_KINDS.items()
    }
    for collection in SHELF_BY_COLLECTION:
        routes.setdefault(collection, {})["POST"] = ("create_record", collection)
        if collection in _CHARGES:
            continue
        one = routes.setdefault(f"{collection}/*", {})
        one |= {"GET": ("read_record", collection), "PUT": ("update_record", collection)}
    routes[_SUBSCRIPTION_CHARGES]["GET"] = ("read_records", _SUBSCRIPTION_CHARGES)

    return routes


METHODS_BY_TEMPLATE = _routes()


def find_route(path: str) -> tuple[str, tuple[str, ...]] | None:
    """Find the template that a path fits, and the ids in it."""
    if not path.startswith(PREFIX):
        return None
    parts = path.removeprefix(PREFIX).split("/")
    for template in METHODS_BY_TEMPLATE:
        names = template.split("/")
        if len(names) == len(parts) and all(name in ("*", part) for name, part in zip(names, parts, strict=True)):
            ids = tuple(unquote(part) for name, part in zip(names, parts, strict=True) if name == "*")
            return (template, ids) if all(ids) else None
    return None
