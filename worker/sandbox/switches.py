"""Decides nothing; keeps how the providers behave where the real ones are undocumented or depend on the account.

A switch stays as it is set until it is set again or the sandbox begins again. What befalls single requests is
scripted instead: `faults.py`.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_type_hints

from .errors import SandboxError

Json = dict[str, Any]

_FORMS = ("text", "number")
_REFUND_STATUSES = ("SUCCESS", "PENDING", None)
_PENDING_ENDS = ("SUCCESS", "FAIL")
_WINDOWS = ("sliding", "calendar")


@dataclass(slots=True, kw_only=True)
class Switches:
    """All switches, as they stand now."""

    replay_errors: bool = True
    """Both: whether a key gets a stored refusal again as it gets a stored success."""
    key_window_hours: int | float = 24
    """Both: how long a key is honoured, from its first use."""
    bluesnap_keys: bool = True
    """Whether the account has idempotency; without it a key is accepted silently and does nothing."""
    bluesnap_codes: str = "text"
    """Whether an error's code is text or a number."""
    bluesnap_amounts: str = "text"
    """Whether amounts in answers are text or numbers."""
    bluesnap_refund_status: str | None = "SUCCESS"
    """What a new refund's status is; None: the older answer, which holds the refund's id alone."""
    bluesnap_pending_hours: int | float = 72
    """How long a refund stays PENDING."""
    bluesnap_pending_ends: str = "SUCCESS"
    """What becomes of it then: SUCCESS or FAIL."""
    bluesnap_refund_details: bool = False
    """Whether the refunds in a transaction show their reason and metadata, as the refund's own read does."""
    quota_headers: bool = True
    """Klarna: whether answers tell the quotas that are set."""
    quota_factor: int | float = 1
    """Both: what the quotas that are set are multiplied by; 0.5 halves them, for a provider that changes its mind."""
    quota_window: str = "sliding"
    """Both: whether a quota counts in any second (sliding) or in those of the clock (calendar)."""
    _begun_with: Json = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._begun_with = self.shown()

    def shown(self) -> Json:
        """Show all switches."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}

    def set(self, **values: object) -> None:
        """Set some switches, all of them or none."""
        hints = get_type_hints(Switches)
        known = [switch.name for switch in fields(self) if not switch.name.startswith("_")]
        for name, value in values.items():
            if name not in known:
                msg = f"there is no switch {name!r}; there are {', '.join(known)}"
                raise SandboxError(msg)
            if not isinstance(value, hints[name]) or (isinstance(value, bool) and hints[name] is not bool):
                msg = f"the switch {name} cannot be {value!r}"
                raise SandboxError(msg)
            _demand_possible(name, value)
        for name, value in values.items():
            setattr(self, name, value)

    def reset(self) -> None:
        """Return to what the sandbox began with."""
        self.set(**self._begun_with)


def _demand_possible(name: str, value: object) -> None:
    possible: dict[str, tuple[object, ...]] = {
        "bluesnap_codes": _FORMS,
        "bluesnap_amounts": _FORMS,
        "bluesnap_refund_status": _REFUND_STATUSES,
        "bluesnap_pending_ends": _PENDING_ENDS,
        "quota_window": _WINDOWS,
    }
    if name in possible and value not in possible[name]:
        msg = f"{name} must be one of {', '.join(map(str, possible[name]))}, got {value!r}"
        raise SandboxError(msg)
    if name.endswith(("_hours", "_factor")) and not (isinstance(value, int | float) and value > 0):
        msg = f"{name} must be above 0, got {value}"
        raise SandboxError(msg)
