"""What happens when in a run: a seed decides it, and it can be written down and read again.

Decides which faults come, when, for how long and at whom, so that two which need the same thing for themselves do not
overlap; all others may.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .faults import AIMED_AT, ANY_WORKER, DEPLOYING_SECONDS, FAULTS, Where
from .version import previous_version

#: Requests a second that the sandbox takes for the Klarna account, in every third run; there is none in the others.
_QUOTA = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One fault to come, with a chance of its own."""

    name: str
    at: float
    seconds: float
    worker: int
    chance: int

    @property
    def ends(self) -> float:
        """When it is over."""
        return self.at + self.seconds

    @property
    def seat(self) -> str | None:
        """What it needs for itself."""
        seat = FAULTS[self.name].seat

        return f"worker-{self.worker}" if seat == "worker" else seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a seed decides about a run but its load."""

    seed: int
    commands: int
    seconds: float
    is_deployed: bool
    is_upkeep_apart: bool
    quota: int | None
    only: Sequence[str]
    wanted: int
    faults: Sequence[Planned]

    @classmethod
    def of(cls, seed: int, *, commands: int, seconds: float, faults: int, only: Sequence[str] = ()) -> Plan:
        """Make it up; `only` leaves all other faults out."""
        chance = random.Random(f"plan {seed}")
        where = {Where.UPKEEP_APART: seed % 2 == 0, Where.DEPLOYED: seed % 4 == 1 and previous_version() is not None}
        names = [
            name
            for name, fault in FAULTS.items()
            if (not only or name in only)
            and fault.is_possible()
            and (fault.only_where is None or (fault.only_where is Where.UPKEEP_APART and where[fault.only_where]))
        ]
        chosen = chance.sample(names, min(faults, len(names)))
        if only:
            chosen = [name for name in chosen for _ in range(max(1, faults // len(names)))]
        # A run that begins with the previous version goes on with the new one, and lasts so much longer.
        chosen += [name for name in FAULTS if FAULTS[name].only_where is Where.DEPLOYED and where[Where.DEPLOYED]]
        planned: list[Planned] = []
        for name in chosen:
            for _ in range(20):
                one = _planned(name, chance, _lasts(seconds, is_deployed=where[Where.DEPLOYED]))
                if not any(_collide(one, other) for other in planned):
                    planned.append(one)
                    break

        return cls(
            seed=seed,
            commands=commands,
            seconds=seconds,
            is_deployed=where[Where.DEPLOYED],
            is_upkeep_apart=where[Where.UPKEEP_APART],
            quota=_QUOTA if seed % 3 == 0 else None,
            only=only,
            wanted=faults,
            faults=sorted(planned, key=lambda each: each.at),
        )

    @property
    def lasts(self) -> float:
        """How long it asks and is disturbed."""
        return _lasts(self.seconds, is_deployed=self.is_deployed)

    @classmethod
    def read(cls, shown: dict[str, Any]) -> Plan:
        """Read one that was written down."""
        return cls(**{**shown, "faults": [Planned(**each) for each in shown["faults"]]})

    def again(self) -> str:
        """Say how the same is seen again."""
        only = "".join(f" --only '{name}'" for name in self.only)
        options = f"--seeds 1 --seed {self.seed} --commands {self.commands} --seconds {self.seconds:g}"

        return f'make chaos CHAOS="{options} --faults {self.wanted}{only}"'

    def shown(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def _lasts(seconds: float, *, is_deployed: bool) -> float:
    return seconds + (DEPLOYING_SECONDS if is_deployed else 0.0)


def _planned(name: str, chance: random.Random, seconds: float) -> Planned:
    lasts = chance.uniform(*FAULTS[name].seconds)
    aimed_at = AIMED_AT.get(FAULTS[name].seat or "", chance.choice(ANY_WORKER))

    return Planned(
        name=name,
        at=round(chance.uniform(0.5, max(0.6, seconds - lasts - FAULTS[name].takes)), 2),
        seconds=round(lasts, 2),
        worker=aimed_at,
        chance=chance.getrandbits(32),
    )


def _collide(one: Planned, other: Planned) -> bool:
    """Whether both need the same thing at the same time; a server takes a moment to come back."""
    return one.seat is not None and one.seat == other.seat and one.at < other.ends + 1 and other.at < one.ends + 1
