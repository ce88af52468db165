import json
from uuid import RFC_4122, UUID, uuid5

import pytest
from hypothesis import given, strategies as st

from worker.domain.key import NAMESPACE, fingerprint, idempotency_key, new_id, uuid7

FACTS = {
    "account": "klarna-eu",
    "kind": "refund",
    "order_id": "order-1",
    "target": None,
    "reference": "return-1",
}

texts = st.text(st.characters(codec="utf-8"), max_size=8)


def test_the_namespace_is_the_one_all_stored_keys_were_derived_under():
    """Another namespace is another key for every command, and a repeat under another key is paid twice."""
    assert UUID("f7cf0192-8f99-4978-9853-612f976587d3") == NAMESPACE


def test_a_key_is_the_name_based_uuid_of_the_compact_json_array():
    """The ruling fixes the bytes, so that any program can derive the same key."""
    name = '["klarna-eu","refund","order-1",null,"retur-\u00e5"]'

    key = idempotency_key(**{**FACTS, "reference": "retur-\u00e5"})

    assert uuid5(NAMESPACE, name) == key
    assert 5 == key.version


def test_a_stored_key_can_be_derived_again_in_later_releases():
    """Commands outlive releases: this key was written down when the first one was made."""
    assert UUID("9eed7b3c-1629-5a8e-82ee-8ef917723412") == idempotency_key(**FACTS)


@pytest.mark.parametrize("fact", FACTS)
def test_each_fact_makes_another_key(fact):
    """Two commands that differ in any of the five are two intentions."""
    other = {**FACTS, fact: "other"}

    assert idempotency_key(**FACTS) != idempotency_key(**other)


@given(
    st.tuples(texts, texts, texts, st.none() | texts, texts), st.tuples(texts, texts, texts, st.none() | texts, texts)
)
def test_no_character_lets_two_commands_share_a_key(one, other):
    """Quotes, commas and brackets in a reference must not move a border between the facts."""
    keys = {idempotency_key(**dict(zip(FACTS, facts, strict=True))) for facts in (one, other)}

    assert len({one, other}) == len(keys)


def test_the_name_of_a_key_is_what_a_json_reader_reads_back():
    """A target that is absent is null, never the text "None"."""
    with_text = idempotency_key(**{**FACTS, "target": "None"})
    with_null = uuid5(NAMESPACE, json.dumps(list(FACTS.values()), separators=(",", ":")))

    assert with_null == idempotency_key(**FACTS)
    assert with_null != with_text


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_a_new_id_is_a_uuid_of_version_7_that_starts_with_its_time(now_ms, random_bytes):
    """The first 48 bits are the time, which keeps rows of one moment together in the index."""
    identifier = uuid7(now_ms, random_bytes=random_bytes)

    assert 7 == identifier.version
    assert RFC_4122 == identifier.variant
    assert now_ms == identifier.int >> 80


@given(st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1)))
def test_later_ids_sort_after_earlier_ones(moments):
    """Whatever chance adds, an id of a later millisecond is greater, as a number and as text."""
    earlier, later = sorted(moments)
    if earlier == later:
        return

    first = uuid7(earlier, random_bytes=b"\xff" * 10)
    second = uuid7(later, random_bytes=b"\x00" * 10)

    assert first < second
    assert str(first) < str(second)


@given(st.integers(0, 2**74 - 1))
def test_all_74_bits_of_chance_reach_the_id(bits):
    """An id must be unique among all that are made in its millisecond, in every process."""
    identifier = uuid7(0, random_bytes=bits.to_bytes(10, "big"))

    assert bits == (identifier.int >> 64 & 0xFFF) << 62 | identifier.int & 2**62 - 1


@pytest.mark.parametrize(
    ("now_ms", "random_bytes"),
    [(-1, bytes(10)), (2**48, bytes(10)), (0, bytes(9)), (0, bytes(11))],
)
def test_an_id_is_not_made_of_parts_that_do_not_fit(now_ms, random_bytes):
    """A part that is too large would run over into the version and make an id that is none."""
    with pytest.raises(ValueError, match="must"):
        uuid7(now_ms, random_bytes=random_bytes)


def test_new_ids_differ_within_one_millisecond(monkeypatch):
    """A bulk enqueue makes many ids in the same millisecond."""
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)

    identifiers = {new_id() for _ in range(1000)}

    assert 1000 == len(identifiers)
    assert {1_700_000_000_000} == {identifier.int >> 80 for identifier in identifiers}


def test_the_fingerprint_tells_payloads_apart():
    """A reference that is used again for something else must be noticed."""
    one, other = (fingerprint(payload, keyed=True) for payload in (b'{"a":1}', b'{"a":2}'))

    assert one != other
    assert 64 == len(one)


def test_the_fingerprint_tells_keyed_from_unkeyed():
    """Sent without its key, the same body may not be repeated: that is not the same command."""
    payload = b'{"captured_amount":1000}'

    assert fingerprint(payload, keyed=True) != fingerprint(payload, keyed=False)


def test_a_stored_fingerprint_can_be_made_again_in_later_releases():
    """It is kept for ever, longer than the payload, and still has to recognise a late duplicate."""
    assert "e3cceff6449146c41a046d93145c826e89df3edf38e1bd1df6c5131e64540130" == fingerprint(
        b'{"captured_amount":1000}', keyed=True
    )
