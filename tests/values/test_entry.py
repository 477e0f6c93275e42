"""An entry survives its envelope, and an envelope that is not exactly what was written under that
key is never an entry."""

import math
import random
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.values import entry as entry_module
from llm_cache_mem.values.entry import FORMAT_VERSION, MAX_BODY_BYTES, Entry, EntryMemo, times_in
from llm_cache_mem.values.payload import Payload

DATA = Path(__file__).parents[1] / "data"
KEY = "1:default:call:" + "ab" * 32
VALUE = {
    "id": "msg_1",
    "content": [{"type": "text", "text": "Grüße " * 500}],
    "usage": {"input_tokens": 12, "output_tokens": 3},
}
GOLDEN_KEY = "1:golden:call:" + "0" * 64
GOLDEN_VALUE = {"text": "Grüße", "parts": (1, b"\x00", {2: math.pi}), "none": None}


def an_entry(value: Any = VALUE, **fields: Any) -> Entry:
    full = {
        "expires_at": 1_800_003_600.5,
        "model": "claude-é",
        "usage": (12, 3, 1, 0, 0),
        "cost_usd": 0.25,
        "seconds": 1.5,
        "request": b'{"messages": []}',
    }
    return Entry(Payload.of(value), 1_800_000_000.25, **{**full, **fields})


def facts(entry: Entry) -> dict[str, Any]:
    found = {
        name.lstrip("_"): getattr(entry, name.lstrip("_"))
        for name in Entry.__slots__
        if name not in ("payload", "_account", "key")
    }
    return {**found, "value": entry.payload.decode()}


def seal(sealed: bytes, key: str = KEY) -> bytes:
    """A valid tag on any bytes, as someone who can write to the store could make."""
    name = key.encode()
    return (
        sealed + sha256(b"llm-cache-mem entry\0%d:%b%b" % (len(name), name, sealed)).digest()[:16]
    )


def test_the_sizes_of_an_envelope_are_those_of_its_layout() -> None:
    sizes = (entry_module._HEADER_BYTES, entry_module.CLEAR_BYTES, entry_module.TIMES_BYTES)
    assert sizes == (
        entry_module._HEADER.size,
        struct.calcsize("<4sBBB4d5q"),
        entry_module._TIMES.size,
    )


def test_an_entry_comes_back_whole() -> None:
    assert facts(Entry.unpack(KEY, an_entry().pack(KEY))) == facts(an_entry())


@pytest.mark.parametrize("tags", [(), ("team=a", "user=b")])
def test_dependencies_come_back_beside_tags(tags: tuple[str, ...]) -> None:
    entry = an_entry(tags=tags, depends_on=("doc:é", "tool\nx", "\ud800"), generation="ab12")
    assert facts(Entry.unpack(KEY, entry.pack(KEY))) == facts(entry)


@pytest.mark.parametrize("dependencies", [b"", b"\0\0\0\0", b"\2\0\0\0[]", b"\5\0\0\0[[1]]"])
def test_damaged_dependencies_are_unreadable(dependencies: bytes) -> None:
    whole = an_entry(depends_on=("d",), generation="g").to_bytes()
    cut = whole[: -len(an_entry(depends_on=("d",), generation="g")._dependencies())]
    assert _is_unreadable(KEY, seal(cut + dependencies))


@pytest.mark.parametrize(
    "field", ["expires_at", "model", "usage", "cost_usd", "seconds", "request"]
)
def test_an_unknown_fact_stays_unknown(field: str) -> None:
    found = Entry.unpack(KEY, an_entry(**{field: None}).pack(KEY))
    assert facts(found) == facts(an_entry(**{field: None}))
    assert getattr(found, field) is None


def test_zero_and_empty_are_not_unknown() -> None:
    empty = {
        "expires_at": 0.0,
        "model": "",
        "usage": (0, 0, 0, 0, 0),
        "cost_usd": 0.0,
        "seconds": 0.0,
        "request": b"",
    }
    assert facts(Entry.unpack(KEY, an_entry(None, **empty).pack(KEY))) == facts(
        an_entry(None, **empty)
    )


def test_an_unpacked_entry_packs_to_the_same_bytes() -> None:
    packed = an_entry().pack(KEY)
    assert Entry.unpack(KEY, packed).pack(KEY) == packed


def test_size_counts_the_value_and_the_request() -> None:
    assert an_entry().size == Payload.of(VALUE).size + len(b'{"messages": []}')
    assert an_entry(request=None).size == Payload.of(VALUE).size


def test_repr_shows_no_content() -> None:
    assert "Grüße" not in repr(an_entry())
    assert "messages" not in repr(an_entry())


def test_every_bit_flip_is_unreadable() -> None:
    packed = an_entry().pack(KEY)
    assert 3_900 <= len(packed) <= 4_300
    served = 0
    for at in range(len(packed)):
        for bit in range(8):
            damaged = bytearray(packed)
            damaged[at] ^= 1 << bit
            served += not _is_unreadable(KEY, bytes(damaged))
    assert served == 0


def test_every_truncation_and_extension_is_unreadable() -> None:
    packed = an_entry().pack(KEY)
    assert all(_is_unreadable(KEY, packed[:length]) for length in range(len(packed)))
    assert all(_is_unreadable(KEY, packed + b"\0" * more) for more in (1, 16, 4096))
    assert all(_is_unreadable(KEY, packed[skip:]) for skip in range(1, 200))


def test_an_envelope_under_another_key_is_unreadable() -> None:
    other = KEY[:-1] + "c"
    one, two = an_entry("one").pack(KEY), an_entry("two").pack(other)
    assert _is_unreadable(other, one)
    assert _is_unreadable(KEY, two)
    assert _is_unreadable(KEY + "x", one)
    assert _is_unreadable("", one)


def test_halves_of_two_envelopes_are_unreadable() -> None:
    one, two = an_entry("one").pack(KEY), an_entry("two").pack(KEY)
    assert len(one) == len(two)
    assert sum(not _is_unreadable(KEY, one[:at] + two[at:]) for at in range(len(one))) == sum(
        one[:at] + two[at:] in (one, two) for at in range(len(one))
    )


@pytest.mark.parametrize(
    "data",
    [None, "text", 5, bytearray(b"x" * 200), memoryview(b"x" * 200), b"", b"\x89LCM", [1]],
    ids=map(str, range(8)),
)
def test_foreign_bytes_are_unreadable(data: Any) -> None:
    assert _is_unreadable(KEY, data)


@pytest.mark.parametrize(
    ("at", "byte"),
    [(4, FORMAT_VERSION + 1), (4, 255), (5, 1)],
    ids=["version", "far", "flags"],
)
def test_a_newer_version_is_told_apart_so_that_it_can_stay(at: int, byte: int) -> None:
    packed = bytearray(an_entry().pack(KEY))
    packed[at] = byte
    with pytest.raises(EntryUnreadable) as caught:
        Entry.unpack(KEY, bytes(packed))
    assert caught.value.newer


def test_version_nought_is_damage() -> None:
    packed = bytearray(an_entry().pack(KEY))
    packed[4] = 0
    with pytest.raises(EntryUnreadable) as caught:
        Entry.unpack(KEY, bytes(packed))
    assert not caught.value.newer


def test_times_that_are_no_numbers_are_unreadable_even_when_sealed() -> None:
    sealed = an_entry().pack(KEY)[:-16]
    for at, time in ((7, math.nan), (7, math.inf), (15, math.nan)):
        damaged = sealed[:at] + struct.pack("<d", time) + sealed[at + 8 :]
        assert Entry.unpack(KEY, seal(sealed)).stored_at
        assert _is_unreadable(KEY, seal(damaged))


def test_random_bytes_with_a_valid_seal_are_harmless() -> None:
    """Whoever can write to the store can forge a seal; what they get is a value of plain data, or a
    miss."""
    seed = 20_260_101
    print("seed", seed)
    choose = random.Random(seed)
    whole = an_entry().pack(KEY)[:-16]
    for _ in range(2_000):
        damaged = bytearray(whole)
        for _ in range(choose.randint(1, 6)):
            damaged[choose.randrange(len(damaged) if choose.random() < 0.5 else 92)] = (
                choose.randrange(256)
            )
        try:
            facts(Entry.unpack(KEY, seal(bytes(damaged))))
        except EntryUnreadable:
            continue


@pytest.mark.parametrize(
    "fields",
    [
        {"usage": (1, 2)},
        {"usage": (2**63, 0, 0, 0, 0)},
        {"usage": (1.5, 0, 0, 0, 0)},
        {"cost_usd": "x"},
    ],
    ids=repr,
)
def test_a_fact_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueNotCacheable):
        an_entry(**fields).pack(KEY)


def test_a_body_over_the_limit_is_refused_and_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = an_entry().pack(KEY)
    monkeypatch.setattr(entry_module, "MAX_BODY_BYTES", 1000)
    with pytest.raises(ValueNotCacheable, match="1000 bytes"):
        an_entry().pack(KEY)
    assert _is_unreadable(KEY, packed)


def test_format_version_1_stays_readable() -> None:
    """The file was written once, by the first release; never write it again."""
    found = Entry.unpack(GOLDEN_KEY, (DATA / "entry_v1.bin").read_bytes())
    assert facts(found) == {
        "stored_at": 1_800_000_000.25,
        "expires_at": 1_800_003_600.5,
        "model": "claude-sonnet-4-5",
        "usage": (12, 3, 1, 0, 0),
        "cost_usd": 0.25,
        "seconds": 1.5,
        "request": b'{"messages": []}',
        "tags": (),
        "depends_on": (),
        "generation": "",
        "value": GOLDEN_VALUE,
    }


def test_format_version_1_is_what_is_written() -> None:
    entry = an_entry(GOLDEN_VALUE, model="claude-sonnet-4-5")
    assert entry.pack(GOLDEN_KEY) == (DATA / "entry_v1.bin").read_bytes()


def test_a_file_of_a_newer_version_is_left_alone() -> None:
    with pytest.raises(EntryUnreadable) as caught:
        Entry.unpack(GOLDEN_KEY, (DATA / "entry_v2.bin").read_bytes())
    assert caught.value.newer


def test_the_memo_gives_the_same_entry_for_the_same_bytes() -> None:
    memo, packed = EntryMemo(), an_entry().pack(KEY)
    first = memo.get(KEY, packed)
    assert memo.get(KEY, bytes(bytearray(packed))) is first
    assert facts(first) == facts(an_entry())


def test_times_are_read_from_envelopes_of_this_version_only() -> None:
    entry = an_entry()
    packed = bytearray(entry.pack(KEY))
    assert times_in(bytes(packed)) == (entry.stored_at, entry.expires_at)
    packed[4] += 1
    assert times_in(bytes(packed)) is None
    assert times_in(b"") is None


def test_the_memo_sees_other_bytes_and_other_keys() -> None:
    memo = EntryMemo()
    one, two = an_entry("one").pack(KEY), an_entry("two").pack(KEY)
    assert [memo.get(KEY, data).payload.decode() for data in (one, two, one)] == [
        "one",
        "two",
        "one",
    ]
    with pytest.raises(EntryUnreadable):
        memo.get(KEY + "x", one)
    with pytest.raises(EntryUnreadable):
        memo.get(KEY, one[:-1])


def test_the_memo_is_bounded() -> None:
    memo, packed = EntryMemo(max_bytes=1_000_000), an_entry().pack(KEY)
    most = 0
    for n in range(1000):
        memo.get(f"k{n}", an_entry().pack(f"k{n}"))
        most = max(most, len(memo._slots))
    assert 20 < most < 1000
    large = an_entry("x" * 20_000).pack(KEY)
    assert memo.get(KEY, large) is not memo.get(KEY, large)
    assert memo.get(KEY, packed) is memo.get(KEY, packed)


def _is_unreadable(key: str, data: Any) -> bool:
    try:
        Entry.unpack(key, data)
    except EntryUnreadable:
        return True
    return False


def test_request_too_large_for_an_envelope_is_not_stored() -> None:
    entry = Entry(Payload.of(1), 1.0, request=b"x" * MAX_BODY_BYTES)
    with pytest.raises(ValueNotCacheable, match="request"):
        entry.pack("k")


def test_the_memo_takes_what_was_written_if_there_is_room() -> None:
    small, large = an_entry(), an_entry("x" * 20_000)
    data = {"small": small.pack(KEY), "large": large.pack(KEY)}
    slot = 2 * len(data["small"]) + 1024
    for most, taken in ((64 * slot, True), (64 * slot - 1, False)):
        memo = EntryMemo(max_bytes=most)
        memo.note_written(KEY, data["small"], small, 1, None)
        assert (memo.recall(KEY, 1) is not None) is taken
        memo.note_written(KEY, data["large"], large, 1, None)
        assert memo.recall(KEY, 2) is None
    memo = EntryMemo(max_bytes=64 * slot)
    for number in range(200):
        memo.note_written(str(number), data["small"], small, 1, None)
    assert sum(memo.recall(str(number), 1) is not None for number in range(200)) == 64
    memo.note_written("large", data["large"], large, 1, None)
    assert memo.recall("large", 1) is None


@pytest.mark.parametrize(
    ("name", "expected"), [("model", "m!"), ("usage", (1, 2, 0, 0, 0)), ("cost_usd", 0.5)]
)
def test_the_account_is_read_once_by_whichever_fact_is_asked_for(name: str, expected: Any) -> None:
    asked = []

    def account(payload: Payload, model: str | None) -> Any:
        asked.append(payload.decode())
        return f"{model}!", (1, 2, 0, 0, 0), 0.5

    entry = an_entry(model="m", account=account)
    assert getattr(entry, name) == getattr(entry, name) == expected
    assert asked == [VALUE]
