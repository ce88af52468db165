"""What a command is: the fields every kind has, how its bytes are made, and the words in which bad input is refused.

Decides the common fields and their limits, that nothing unknown and no card data gets in, and how two payloads are
compared. Leaves to a provider's own module (`klarna_commands`, `bluesnap_commands`) which kinds there are, what each
carries and what the provider calls it; to `key` the keys; to the services what becomes of a command.

No message repeats a value that was given: it may be somebody's address. A field is named, and so is its limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    StrictBool,
    StrictStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from .card import card_problems, dotted
from .errors import FieldProblem, InvalidCommand, UnknownKind

#: Klarna takes a body of "up to 1 MB"; BlueSnap names no limit. The smaller reading of a megabyte is the safe one.
MAX_PAYLOAD_BYTES = 1_000_000

#: A command with a thousand bad order lines is explained by the first few.
MAX_PROBLEMS = 20

#: How alike two names must be before one is suggested for the other. Low enough for a provider's name of a field:
#: `captured_amount` finds `amount`.
ALIKE = 0.5

_IN_OUR_WORDS = "in_our_words"

#: Pydantic's name for what is wrong → our sentence about it. What stands in braces is a limit, never a value.
_SENTENCES: Mapping[str, str] = {
    "bool_type": "must be true or false",
    "greater_than_equal": "must be at least {ge}",
    "int_type": "must be a whole number: no text, no fraction, not true or false",
    "invalid_key": "has a field whose name is not text",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "missing": "is required",
    "model_type": "must be an object of named fields",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "string_unicode": "must be text that UTF-8 can carry; it holds half of a surrogate pair",
    "too_long": "must have at most {max_length} items",
    "tuple_type": "must be a list",
}


def matching(pattern: str, *, words: str) -> AfterValidator:
    """Refuse, in these words, a text that the pattern does not match from end to end."""
    allowed = re.compile(pattern)

    def refuse(text: str) -> str:
        if allowed.fullmatch(text) is None:
            raise refusal(words)
        return text

    return AfterValidator(refuse)


def _refuse_empty(items: tuple[Part, ...]) -> tuple[Part, ...]:
    if not items:
        raise refusal("must have at least 1 item")
    return items


def refusal(words: str) -> PydanticCustomError:
    """Make the error that a validator raises to refuse a value, in these words."""
    return PydanticCustomError(_IN_OUR_WORDS, "{words}", {"words": words})


def _moment(value: object) -> datetime | None:
    match value:
        case None:
            return None
        case datetime():
            moment = value
        case str():
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise refusal("must be a time in ISO 8601, such as 2030-01-31T09:00:00+01:00") from None
        case _:
            raise refusal("must be a time with its offset, as text in ISO 8601 or as a datetime")

    if moment.utcoffset() is None:
        raise refusal("has no time zone: add the offset, such as +01:00 or Z, or give an aware datetime")

    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise refusal("must lie between the years 1 and 9999 in UTC") from None


#: An account's name.
Account = Annotated[
    StrictStr,
    Field(min_length=1, max_length=64),
    matching(r"[a-z0-9-]*", words="may hold only lower-case letters a to z, digits and hyphens"),
]

#: An id that the provider gave out and that becomes one segment of a URL path.
PathId = Annotated[
    StrictStr,
    Field(min_length=1, max_length=255),
    matching(
        r"(?!\.\Z)(?!.*\.\.)[A-Za-z0-9._~:-]*",
        words="goes into a URL path: it may hold only letters, digits and - . _ ~ :, not two dots in a row, "
        "and may not be a single dot",
    ),
]

#: A name that the caller gives to something.
Reference = Annotated[
    StrictStr,
    Field(min_length=1, max_length=255),
    matching(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*", words="may hold no control characters and no line breaks"),
]

#: A moment, kept in UTC.
Moment = Annotated[datetime | None, PlainValidator(_moment)]

#: Put on a tuple: a JSON array, which arrives as a list, is welcome; a set is not, for its order is chance and the
#: bytes of a command are not.
from_list = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)

#: Put on a tuple that needs an item. Pydantic's own limit counts a bad item as none, and would complain twice.
not_empty = AfterValidator(_refuse_empty)


class Part(BaseModel):
    """A piece of a command with fields of its own, such as an order line. A mapping does as well."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            problems = _problems(error, type(self))
        else:
            return

        raise InvalidCommand(type(self).__name__, problems)

    # Says to pydantic what its own constructor says to it: a part within a command is validated together with the
    # command, so that its problems carry the whole path; only a part made on its own comes through here.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # no type of its own

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # Names only: an address is somebody's.
        yield "fields", ", ".join(sorted(self.model_fields_set))

    def __str__(self) -> str:
        return repr(self)


class Command(BaseModel):
    """One intended call to the payment provider.

    Attributes:
        account: Which account of which provider, by its name in the settings.
        order_id: The provider's id of the order.
        reference: The caller's own name for this one intention, such as a shipment's or a return's id. Enqueuing it
            again is recognised as a repeat. Without it, every enqueue is a new intention.
        due_at: Not to be sent before this moment; at once when absent. Not part of what is sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: ClassVar[str]
    is_read: ClassVar[bool]

    #: Field → what the provider calls it in the body. No field, no body.
    wire_names: ClassVar[Mapping[str, str]] = {}

    #: The field that names the capture or refund the command is about.
    target_field: ClassVar[str | None] = None

    account: Account
    order_id: PathId
    reference: Reference | None = None
    due_at: Moment = None

    if TYPE_CHECKING:
        # Promised here and kept below: pydantic lets no field of a subclass hide a property of its parent.

        @property
        def keyed(self) -> bool:
            """Whether it is sent under its idempotency key."""

        @property
        def amount(self) -> int | None:
            """The money it moves or sets, in minor units; None for a command that names no amount."""

    @property
    def target(self) -> str | None:
        """The capture or refund the command is about; None when it is about the order."""
        return None if self.target_field is None else str(getattr(self, self.target_field))

    def body(self, idempotency_key: str) -> dict[str, Any] | None:
        """Say what is sent, in the provider's names; None when the provider wants no body.

        Args:
            idempotency_key: Stands in where the caller gave no `provider_reference`, so that the provider's own
                records lead back to the command.
        """
        if not self.wire_names:
            return None

        given = self.model_dump(mode="json", include=set(self.wire_names), exclude_none=True)
        fields = {"provider_reference": idempotency_key, **given}

        return {wire_name: fields[field] for field, wire_name in self.wire_names.items() if field in fields}

    def payload(self, idempotency_key: str) -> bytes:
        """Write the body as the exact bytes that are stored and sent on every attempt; empty without a body.

        Raises:
            InvalidCommand: The body is larger than the provider takes.
        """
        body = self.body(idempotency_key)
        if body is None:
            return b""

        # Sorted, so that the order in which fields are declared here can change without making a conflict of a repeat.
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        if len(payload) > MAX_PAYLOAD_BYTES:
            message = f"is {len(payload)} bytes long when sent; the provider takes at most {MAX_PAYLOAD_BYTES}"
            raise InvalidCommand(self.kind, [FieldProblem(field="", message=message)])

        return payload

    def __repr_name__(self) -> str:
        return self.kind

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from (
            ("account", self.account),
            ("order_id", self.order_id),
            ("reference", self.reference),
            ("amount", self.amount),
        )

    def __str__(self) -> str:
        return repr(self)

    @model_validator(mode="wrap")
    @classmethod
    def _accept_or_refuse(cls, fields: object, accept: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            command = accept(fields)
        except ValidationError as error:
            problems = _problems(error, cls, given=fields)
        else:
            problems = _first(card_problems(command.model_dump()))
            if not problems:
                return command

        # Outside of the `except`: the foreign error holds the values that were given, and must not ride along.
        raise InvalidCommand(cls.kind, problems)


class Read(Command):
    """A command that changes nothing, and so can always be repeated and carries no key."""

    is_read: ClassVar[bool] = True

    @property
    def keyed(self) -> bool:
        """A read is never sent under a key."""
        return False

    @property
    def amount(self) -> None:
        """A read names no amount."""
        return


class Change(Command):
    """A command that changes something at the provider.

    Attributes:
        keyed: Sent under its idempotency key, unless set to False: such a command is never repeated blindly.
    """

    is_read: ClassVar[bool] = False

    keyed: StrictBool = True


class UnkeyedChange(Command):
    """A command that changes something, by a call for which the provider takes no key.

    Whether it is sent under one is therefore no field of it. It is never repeated blindly.
    """

    is_read: ClassVar[bool] = False

    @property
    def keyed(self) -> bool:
        """The provider would not look at a key."""
        return False


class PlainChange(Change):
    """A change that names no amount."""

    @property
    def amount(self) -> None:
        """No amount is named."""
        return


def parse(fields: Mapping[str, Any], commands: Mapping[str, type[Command]]) -> Command:
    """Make a command of a mapping, such as one line of a file: `kind` chooses the class, the rest are its fields.

    Args:
        fields: The mapping.
        commands: A provider's table of kinds, such as `KLARNA_COMMANDS`.

    Raises:
        UnknownKind: The table has no such kind.
        InvalidCommand: The kind is missing, or a field is not as it must be.
    """
    if not isinstance(fields, Mapping):
        raise InvalidCommand(None, [FieldProblem(field="", message=_SENTENCES["model_type"])])

    match fields.get("kind"):
        case str() as kind if kind in commands:
            return commands[kind].model_validate({name: value for name, value in fields.items() if name != "kind"})
        case str() as kind:
            raise UnknownKind(dotted("", kind), sorted(commands), _nearest(kind, commands))
        case None:
            message = f"is required, one of {', '.join(sorted(commands))}"
            raise InvalidCommand(None, [FieldProblem(field="kind", message=message)])
        case _:
            raise InvalidCommand(None, [FieldProblem(field="kind", message=_SENTENCES["string_type"])])


def differing_fields(stored: bytes, offered: bytes) -> tuple[str, ...]:
    """Name the places at which two payloads differ, as sorted dotted paths in the provider's names.

    Lists of different lengths differ as a whole. A payload without a body differs in every field of the other.
    """
    return tuple(sorted(_differences(_loaded(stored), _loaded(offered), "")))


def _loaded(payload: bytes) -> object:
    return json.loads(payload) if payload else {}


def _differences(stored: object, offered: object, path: str) -> Iterator[str]:
    match stored, offered:
        case dict(), dict():
            for name in stored.keys() | offered.keys():
                place = dotted(path, name)
                if name in stored and name in offered:
                    yield from _differences(stored[name], offered[name], place)
                else:
                    yield place
        case list(), list() if len(stored) == len(offered):
            for index, (one, other) in enumerate(zip(stored, offered, strict=True)):
                yield from _differences(one, other, dotted(path, index))
        case _ if type(stored) is not type(offered) or stored != offered:
            yield path


def _problems(error: ValidationError, model: type[BaseModel], given: object = None) -> list[FieldProblem]:
    """Say in our words what pydantic found, card data first: a field that is one and unknown too is card data."""
    card = card_problems(given)
    named = {problem.field for problem in card}
    found = [_problem(detail, model) for detail in error.errors(include_url=False, include_input=False)]

    return _first(card + [problem for problem in found if problem.field not in named])


def _first(problems: Sequence[FieldProblem]) -> list[FieldProblem]:
    if len(problems) <= MAX_PROBLEMS:
        return list(problems)

    more = FieldProblem(field="", message=f"and {len(problems) - MAX_PROBLEMS} more problems")

    return [*problems[:MAX_PROBLEMS], more]


def _problem(detail: ErrorDetails, model: type[BaseModel]) -> FieldProblem:
    place = detail["loc"]
    match detail["type"]:
        case "extra_forbidden":
            message = _unknown_field(str(place[-1]), _model_at(place[:-1], model))
        case "invalid_key":
            place, message = place[:-1], _SENTENCES["invalid_key"]
        case type_ if type_ == _IN_OUR_WORDS:
            message = detail["msg"]
        case type_:
            message = _SENTENCES.get(type_, "is not valid").format(**detail.get("ctx", {}))

    return FieldProblem(field=reduce(dotted, place, ""), message=message)


def _unknown_field(name: str, model: type[BaseModel]) -> str:
    nearest = _nearest(name, model.model_fields)
    if nearest is not None:
        return f"is not a field here; did you mean {nearest}?"

    return f"is not a field here; the fields are {', '.join(model.model_fields)}"


def _nearest(name: str, known: Mapping[str, object]) -> str | None:
    # Only so much of a name can resemble another; ten megabytes of it would take long to compare.
    matches = get_close_matches(name[:64].lower(), known, n=1, cutoff=ALIKE)

    return matches[0] if matches else None


def _model_at(place: Sequence[int | str], model: type[BaseModel]) -> type[BaseModel]:
    """The model that stands at a place within another one."""
    for step in place:
        if isinstance(step, str):
            model = _models_in(model.model_fields[step].annotation)[0]

    return model


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]

    return [model for argument in get_args(annotation) for model in _models_in(argument)]
