"""Decides nothing by itself: the rules from which a provider's demands on a body are put together.

Which body has to keep which rules is `bodies.py` for Klarna and `bluesnap_bodies.py` for BlueSnap.
"""

from collections.abc import Callable, Mapping

#: Looks at a value that stands at a place and says what is wrong with it, in sentences that begin with the place.
Rule = Callable[[object, str], list[str]]


def text(most: int, *, least: int = 0) -> Rule:
    """Demand a string of so many characters."""

    def rule(value: object, place: str) -> list[str]:
        if not isinstance(value, str):
            return [f"{place} must be a string"]
        if len(value) < least:
            return [f"{place} must have at least {least} characters"]
        return [f"{place} must have at most {most} characters"] if len(value) > most else []

    return rule


def whole(least: int | None, most: int | None) -> Rule:
    """Demand an integer within bounds."""

    def rule(value: object, place: str) -> list[str]:
        if not isinstance(value, int) or isinstance(value, bool):
            return [f"{place} must be an integer"]
        if least is not None and value < least:
            return [f"{place} must be at least {least}"]
        return [f"{place} must be at most {most}"] if most is not None and value > most else []

    return rule


def one_of(*names: str) -> Rule:
    """Demand one of the names."""

    def rule(value: object, place: str) -> list[str]:
        return [] if value in names else [f"{place} must be one of {', '.join(names)}"]

    return rule


def items(rule: Rule, *, least: int, most: int) -> Rule:
    """Demand a list of so many items, each of which keeps a rule."""

    def rule_of_items(value: object, place: str) -> list[str]:
        if not isinstance(value, list):
            return [f"{place} must be a list"]
        if not least <= len(value) <= most:
            return [f"{place} must have {least} to {most} items"]
        return [problem for index, item in enumerate(value) for problem in rule(item, f"{place}[{index}]")]

    return rule_of_items


def record(required: Mapping[str, Rule], optional: Mapping[str, Rule]) -> Rule:
    """Check the known fields; unknown ones pass, and an optional field that is null counts as absent."""
    rule_by_name = {**required, **optional}

    def rule(value: object, place: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{place} must be an object"]
        start = f"{place}." if place else ""
        problems = [f"{start}{name} must not be null" for name in required if value.get(name) is None]
        for name, rule_of_field in rule_by_name.items():
            if value.get(name) is not None:
                problems += rule_of_field(value[name], start + name)
        return problems

    return rule
