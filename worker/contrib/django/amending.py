"""The page of the verb `amend`: which command takes the place of another, and why.

Decides what of the old command is written down for the person beforehand, and that what is given is read as `enqueue`
on the command line reads a line. Which amendment is safe is the service's to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from django import forms

from ...domain import commands
from ...wiring import COMMANDS
from . import conf
from .models import Command


class Reason(forms.Form):
    """Why an operator does something."""

    why = forms.CharField(
        label="Reason",
        max_length=2_000,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 80, "autofocus": True}),
        help_text="Kept with the command, together with your name.",
    )


class Amendment(Reason):
    """The command that takes another one's place, and why."""

    amended = forms.CharField(
        label="New command",
        widget=forms.Textarea(attrs={"rows": 12, "cols": 80, "spellcheck": "false", "class": "post-purchase-json"}),
        help_text=(
            "As JSON, with the fields that post-purchase enqueue takes. What else the old one carried, such as order "
            "lines or an address, is not filled in: add what the new one needs."
        ),
    )
    field_order = ("amended", "why")

    def clean_amended(self) -> commands.Command:
        """Read the command.

        Raises:
            ValidationError: It is none; the sentence says why.
        """
        from ...cli.lines import BadLine, Line, read_lines  # noqa: PLC0415  # a web process starts without it

        # A line break within JSON is only for the eye; those within texts are escaped.
        text = self.cleaned_data["amended"].replace("\r", " ").replace("\n", " ")
        match list(read_lines(BytesIO(text.encode()), _kinds())):
            case [Line(command=command)]:
                return command
            case [BadLine(reason=reason)]:
                raise forms.ValidationError(reason)
            case _:
                raise forms.ValidationError("holds no command")


def draft(command: Command) -> str:
    """Write down what is known of a command, for a person to change."""
    known: dict[str, Any] = {
        "kind": command.kind,
        "account": command.account,
        "order_id": command.order_id,
        "reference": command.reference,
        "amount": command.amount,
        "keyed": None if command.keyed else False,
    }
    kind = _kinds().get(command.account, {}).get(command.kind)
    if kind is not None:
        known = {name: value for name, value in known.items() if name == "kind" or name in kind.model_fields}
        if kind.target_field is not None:
            known[kind.target_field] = command.target

    return json.dumps({name: value for name, value in known.items() if value is not None}, indent=2, ensure_ascii=False)


def _kinds() -> Mapping[str, Mapping[str, type[commands.Command]]]:
    accounts = conf.services().settings.accounts

    return {name: COMMANDS[account.provider] for name, account in accounts.items()}
