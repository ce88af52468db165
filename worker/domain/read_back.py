"""A read-back: that a command's effect is to be looked up at the provider before anything else is done about it.

Decides what a read-back can be for, and what is kept of one while it lasts. Leaves to `ladder` when one is begun, to
`judge` what follows from what it found, and to the providers which read shows an effect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from .ticket import Reason


class Purpose(StrEnum):
    """What waits for the read-back. The strings are stored and never change."""

    REPEAT = "repeat"  # an unkeyed change may be sent again once it is known to be absent
    REFUSAL = "refusal"  # a refusal after an attempt in doubt is believed once the effect is known to be absent
    TICKET = "ticket"  # a person decides; the case file shall say what is there
    RECHECK = "recheck"  # an operator asked
    SETTLEMENT = "settlement"  # done, but shown as pending: followed until the provider has settled it


#: The effect is known to be absent only after this many reads in a row said so.
ABSENCES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """What is kept of a read-back between its reads.

    `reason` is that of the ticket it ends in if nothing is found out. `resume_at` is when an unkeyed change may be
    sent again, for `repeat`. `until` is when a pending effect is given up, for `settlement`. `failures` counts reads in
    a row that told nothing, `absences` those in a row that found no effect, not counting what told nothing.
    """

    purpose: Purpose
    reason: Reason
    resume_at: datetime | None = None
    until: datetime | None = None
    failures: int = 0
    absences: int = 0

    def failed(self) -> Self:
        """One more read that told nothing."""
        return replace(self, failures=self.failures + 1)

    def found_absent(self) -> Self:
        """One more read that found no effect."""
        return replace(self, failures=0, absences=self.absences + 1)
