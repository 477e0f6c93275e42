"""Encryption at rest: the store gives nothing away, the right keys read, the wrong ones miss, and
nothing is lost by either."""

import hmac
import logging
import pickle
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stores.conformance import MakeStore, StoreConformance, entry_of

from llm_cache_mem import LLMCache, options
from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.values.encryption import (
    KEY_VARIABLE,
    Encryption,
    envelope_for,
    new_key,
    warn_of_plain,
)
from llm_cache_mem.values.entry import CLEAR_BYTES, KEY_ID_BYTES, PLAIN, Entry, encrypted_with

KEY = "1:acme:value:" + "ab" * 32
PROMPT, ANSWER, MODEL = "CANARY-of-a-prompt", "CANARY-of-an-answer", "CANARY-of-a-model"
ONE, TWO, THREE = (new_key() for _ in range(3))


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


def an_entry() -> Entry:
    return entry_of(
        {"text": ANSWER * 200},
        expires_at=1_800_003_600.5,
        model=MODEL,
        usage=(10, 5, 3, 2, 1),
        cost_usd=0.25,
        seconds=1.5,
        request=PROMPT.encode(),
    )


def facts(entry: Entry) -> dict[str, Any]:
    found = {
        name.lstrip("_"): getattr(entry, name.lstrip("_"))
        for name in Entry.__slots__
        if name not in ("payload", "_account", "key")
    }
    return {**found, "value": entry.payload.decode()}


def stored(path: Path) -> dict[str, bytes]:
    with sqlite3.connect(path) as db:
        rows = dict(db.execute("SELECT key, data FROM entries").fetchall())
    db.close()
    return rows


def files(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


class TestConformance(StoreConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Iterator[MakeStore]:
        made: list[SQLiteStore] = []

        def make(**settings: Any) -> SQLiteStore:
            made.append(
                SQLiteStore(tmp_path / f"{len(made)}.db", envelope=Encryption(ONE), **settings)
            )
            return made[-1]

        yield make
        for store in made:
            store.close()


# -- The envelope


def test_without_cryptography_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for make in (Encryption, envelope_for):
        with pytest.raises(ImportError, match=r"pip install 'llm-cache-mem\[crypto\]'"):
            make(ONE)
    assert envelope_for("plain")() is PLAIN


def test_an_entry_comes_back_whole() -> None:
    envelope = Encryption(ONE)
    assert facts(envelope.unpack(KEY, envelope.pack(KEY, an_entry()))) == facts(an_entry())


def test_the_same_entry_is_never_written_the_same_way_twice() -> None:
    envelope = Encryption(ONE)
    assert len({envelope.pack(KEY, an_entry()) for _ in range(1000)}) == 1000


def test_secrets_are_derived_as_the_format_says() -> None:
    """By HKDF (RFC 5869) without salt; otherwise stored entries would never be found again."""
    key = bytes(range(32))
    extracted = hmac.digest(bytes(32), key, "sha256")

    def derived(purpose: bytes) -> bytes:
        return hmac.digest(extracted, b"llm-cache-mem " + purpose + b"\x01", "sha256")

    envelope, digest = Encryption(key), "ab" * 32
    hidden = hmac.digest(derived(b"digests"), digest.encode(), "sha256").hex()
    assert [hide(digest) for hide in envelope.digests] == [hidden]
    key_id = derived(b"id")[:KEY_ID_BYTES]
    assert envelope.knows(key_id.hex())

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    packed = envelope.pack(KEY, an_entry())
    assert packed[:6] == b"\x89LCM\x01\x01"
    assert packed[CLEAR_BYTES : CLEAR_BYTES + KEY_ID_BYTES] == key_id
    assert encrypted_with(packed) == key_id.hex()
    for foreign in (b"\x89LCM\x02", b"\x88LCM\x01", b"\x89LCM\x01\x00"):
        assert encrypted_with(foreign + packed[len(foreign) :]) == ""
    sealed_at = CLEAR_BYTES + KEY_ID_BYTES + 12
    clear, nonce, sealed = (
        packed[: sealed_at - 12],
        packed[sealed_at - 12 : sealed_at],
        packed[sealed_at:],
    )
    bound_to = b"llm-cache-mem encrypted entry\0%d:%b%b" % (len(KEY), KEY.encode(), clear)
    AESGCM(derived(b"entries")).decrypt(nonce, sealed, bound_to)


def test_neither_prompt_nor_answer_nor_model_can_be_read() -> None:
    packed = Encryption(ONE).pack(KEY, an_entry())
    assert b"CANARY" not in packed


def test_every_bit_flip_and_every_truncation_is_unreadable() -> None:
    envelope = Encryption(ONE)
    packed = envelope.pack(KEY, an_entry())
    assert len(packed) > 3_900
    for at in range(len(packed)):
        for bit in range(8):
            flipped = packed[:at] + bytes([packed[at] ^ 1 << bit]) + packed[at + 1 :]
            with pytest.raises(EntryUnreadable):
                envelope.unpack(KEY, flipped)
        with pytest.raises(EntryUnreadable):
            envelope.unpack(KEY, packed[:at])
    with pytest.raises(EntryUnreadable):
        envelope.unpack(KEY, packed + b"\0")


def test_an_entry_is_not_read_under_another_key() -> None:
    envelope = Encryption(ONE)
    with pytest.raises(EntryUnreadable, match="stored under another key") as caught:
        envelope.unpack(KEY + ".1", envelope.pack(KEY, an_entry()))
    assert not caught.value.newer


def test_unreadable_and_damaged_entries_are_told_apart() -> None:
    for reader, data in (
        (Encryption(TWO), Encryption(ONE).pack(KEY, an_entry())),
        (Encryption(ONE), an_entry().pack(KEY)),
    ):
        with pytest.raises(EntryUnreadable) as caught:
            reader.unpack(KEY, data)
        assert caught.value.newer
    with pytest.raises(EntryUnreadable, match="encrypted") as caught:
        Entry.unpack(KEY, Encryption(ONE).pack(KEY, an_entry()))
    assert caught.value.newer


def test_a_plain_entry_cannot_be_planted_in_the_store(path: Path) -> None:
    with LLMCache(backend=path, encryption_key=ONE) as cache:
        cache.put(PROMPT, "true", model="m")
        (key,) = stored(path)
        with sqlite3.connect(path) as db:
            db.execute(
                "UPDATE entries SET data = ?",
                (entry_of("planted", stored_at=cache.engine.settings.clock()).pack(key),),
            )
        db.close()
        assert cache.get(PROMPT, model="m") is None


# -- Through a cache


def test_an_encrypted_store_holds_no_plain_text_or_key(
    path: Path,
) -> None:
    with LLMCache(backend=path, encryption_key=ONE) as cache:
        cache.put(PROMPT, ANSWER, model=MODEL)
        digest = cache.key(PROMPT, model=MODEL)
        assert digest == keys.digest(PROMPT, {"model": MODEL})
        assert cache.get(PROMPT, model=MODEL) == ANSWER
        held = files(path)
        assert b"CANARY" not in held
        assert digest.encode() not in held
        (key,) = stored(path)
    assert keys.parse(key).digest != digest


def test_without_encryption_the_store_holds_the_published_digest(path: Path) -> None:
    with LLMCache(backend=path) as cache:
        cache.put(PROMPT, ANSWER, model="m")
        (key,) = stored(path)
        assert keys.parse(key).digest == cache.key(PROMPT, model="m")


def test_two_keys_hide_the_same_digest_differently(path: Path) -> None:
    for key in (ONE, TWO):
        with LLMCache(backend=path, encryption_key=key) as cache:
            cache.put(PROMPT, ANSWER)
    assert len(stored(path)) == 2


def test_another_process_with_the_key_reads_it(path: Path) -> None:
    for number in range(2):
        with LLMCache(backend=path, encryption_key=ONE) as cache:
            assert cache.get(PROMPT, model="m") == (ANSWER if number else None)
            cache.put(PROMPT, ANSWER, model="m")


@pytest.mark.parametrize("other", [TWO, "plain"], ids=["another key", "plain"])
def test_a_wrong_encryption_key_misses_and_removes_nothing(path: Path, other: str) -> None:
    with (
        LLMCache(backend=path, encryption_key=ONE) as right,
        LLMCache(backend=path, encryption_key=other, strict=True) as wrong,
    ):
        right.put(PROMPT, ANSWER, model="m")
        before = stored(path)
        assert wrong.get(PROMPT, model="m") is None
        assert list(wrong.engine.entries()) == []
        assert stored(path) == before
        assert wrong.get_or_call(PROMPT, lambda messages, model: "mine", model="m") == "mine"
        assert right.get(PROMPT, model="m") == ANSWER
        assert wrong.get(PROMPT, model="m") == "mine"


def test_streams_samples_and_namespaces_are_found_again(path: Path) -> None:
    def chunks(messages: Any, stream: bool) -> Iterator[str]:
        yield from ("a", "b")

    with LLMCache(backend=path, encryption_key=ONE) as cache:
        for _ in range(2):
            assert list(cache.get_or_call(PROMPT, chunks, stream=True)) == ["a", "b"]
        assert cache.stats().hits == 1
        with options(sample=2, namespace="acme"):
            cache.put(PROMPT, "second")
            assert cache.get(PROMPT) == "second"
        assert cache.get(PROMPT) is None
        assert {
            (keys.parse(key).namespace, keys.parse(key).kind, keys.parse(key).sample)
            for key in stored(path)
        } == {
            ("", "stream", None),
            ("acme", "value", 2),
        }


def test_the_frameworks_keys_are_hidden_too(path: Path) -> None:
    from langchain_core.language_models import FakeListChatModel
    from langchain_llm_cache_mem import LLMCacheMem
    from llama_index.core.llms import MockLLM
    from llama_index_llm_cache_mem import CachedLLM

    with LLMCache(backend=path) as plain, LLMCache(backend=path, encryption_key=ONE) as cache:
        for used in (plain, cache):
            for _ in range(2):
                FakeListChatModel(responses=[ANSWER], cache=LLMCacheMem(used)).invoke(PROMPT)
                CachedLLM(MockLLM(), used).complete(PROMPT)
            assert used.stats().hits == 2
        assert len(stored(path)) == 4


# -- Rotation


def test_entries_of_an_older_encryption_key_are_read(path: Path) -> None:
    with LLMCache(backend=path, encryption_key=ONE) as before:
        before.put(PROMPT, ANSWER, model="m")
    with LLMCache(backend=path, encryption_key=[THREE, TWO, ONE]) as cache:
        assert cache.get(PROMPT, model="m") == ANSWER
        assert cache.get_or_call(PROMPT, lambda **_: "called", model="m") == ANSWER
        cache.put("new", "written with the first", model="m")
    with LLMCache(backend=path, encryption_key=THREE) as after:
        assert after.get("new", model="m") == "written with the first"
        assert after.get(PROMPT, model="m") is None


def test_a_new_answer_takes_the_place_of_that_under_an_older_key(path: Path, clock: Any) -> None:
    with LLMCache(backend=path, encryption_key=ONE, clock=clock) as before:
        before.put(PROMPT, "older")
    with LLMCache(backend=path, encryption_key=[TWO, ONE], clock=clock) as cache:
        with options(mode="refresh"):
            assert cache.get_or_call(PROMPT, lambda messages: "newer") == "newer"
        assert cache.get(PROMPT) == "newer"
        assert len(stored(path)) == 1


def test_delete_and_clear_reach_entries_of_older_keys(path: Path) -> None:
    with (
        LLMCache(backend=path, encryption_key=ONE) as before,
        LLMCache(backend=path, encryption_key=[TWO, ONE]) as cache,
    ):
        before.put(PROMPT, "older")
        assert cache.delete(PROMPT)
        assert before.get(PROMPT) is None
        before.put(PROMPT, "older")
        cache.put("another", "newer")
        assert cache.clear() == 2


def test_an_expired_entry_of_an_older_key_is_removed_where_it_is(path: Path, clock: Any) -> None:
    with LLMCache(backend=path, encryption_key=ONE, clock=clock, ttl_seconds=10) as before:
        before.put(PROMPT, "older")
    clock.advance(10)
    with LLMCache(backend=path, encryption_key=[TWO, ONE], clock=clock) as cache:
        assert cache.get(PROMPT) is None
        assert stored(path) == {}


def test_an_encrypted_cache_reads_plain_entries_only_on_request(path: Path) -> None:
    with LLMCache(backend=path) as before:
        before.put(PROMPT, ANSWER, model="m")
    with LLMCache(backend=path, encryption_key=ONE) as strict:
        assert strict.get(PROMPT, model="m") is None
    with LLMCache(backend=path, encryption_key=[ONE, "plain"]) as migrating:
        assert migrating.get(PROMPT, model="m") == ANSWER
        migrating.put("new", "answer", model="m")
    assert sum(b"answer" in data for data in stored(path).values()) == 1  # that of before


# -- Where keys come from, and where they must not go


def test_the_environment_names_the_keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLMCache(backend=path, encryption_key=ONE) as before:
        before.put(PROMPT, ANSWER)
    monkeypatch.setenv(KEY_VARIABLE, f"{TWO}, {ONE}")
    with LLMCache(backend=f"sqlite:///{path}") as cache:
        assert cache.get(PROMPT) == ANSWER
    with LLMCache(backend=path, encryption_key="plain") as plain:  # the argument goes before it
        plain.put(PROMPT, ANSWER)
        assert len(stored(path)) == 2


@pytest.mark.parametrize(
    "key",
    [
        b"k" * 32,
        b"k" * 32 + b"",
        "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
        "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s",
    ],
)
def test_a_key_is_32_bytes_or_their_base64(key: bytes | str) -> None:
    same = Encryption(b"k" * 32)
    assert Encryption(key).unpack(KEY, same.pack(KEY, an_entry())).model == MODEL


@pytest.mark.parametrize(
    "key",
    [
        "CANARY",
        "",
        "CANARY" * 8,
        b"CANARY",
        [],
        ["CANARY"],
        [ONE, ONE],
        f"{ONE},",
        "CANARYé",
        [ONE, "CANARY!"],
    ],
    ids=map(str, range(10)),
)
def test_an_invalid_key_is_rejected_without_being_quoted(
    path: Path, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"encryption[ _]key") as caught:
        LLMCache(backend=path, encryption_key=key)
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))
    if isinstance(key, str) and key:
        monkeypatch.setenv(KEY_VARIABLE, key)
        with pytest.raises(ValueError, match=r"encryption[ _]key"):
            LLMCache(backend=path)
    assert not path.exists()


@pytest.mark.parametrize("key", [7, [7], {"a": 1}.values()])
def test_a_key_of_another_type_is_a_type_error(path: Path, key: Any) -> None:
    with pytest.raises(TypeError, match="encryption key must be bytes or str"):
        LLMCache(backend=path, encryption_key=key)


def test_memory_holds_nothing_at_rest_and_takes_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "no key at all")
    with LLMCache(backend="memory") as cache:
        cache.put(PROMPT, ANSWER)
        assert [keys.parse(key).digest for key, _ in cache.engine.entries()] == [cache.key(PROMPT)]
    with pytest.raises(
        ValueError, match="encryption key"
    ):  # but a wrong argument is a wrong argument
        LLMCache(backend="memory", encryption_key="no key at all")


def test_a_store_that_is_handed_in_brings_its_own_envelope(path: Path) -> None:
    store = SQLiteStore(path, envelope=Encryption(ONE))
    with LLMCache(backend=store) as cache:
        cache.put(PROMPT, ANSWER)
        assert cache.get(PROMPT) == ANSWER
        (key,) = stored(path)
        assert keys.parse(key).digest != cache.key(PROMPT)
    for handed in (store, MemoryStore()):
        with pytest.raises(
            ValueError, match=r"envelope=llm_cache_mem.values.encryption.Encryption\(key\)"
        ):
            LLMCache(backend=handed, encryption_key=ONE)
    store.close()


def test_a_plain_store_beside_an_encryption_key_warns(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, ONE)
    store = SQLiteStore(path)
    LLMCache(backend=store).close()
    store.close()
    (record,) = caplog.records
    assert "not encrypted" in record.getMessage()
    assert ONE not in record.getMessage()


def test_only_a_plain_store_beside_a_key_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Store:
        envelope: object = PLAIN

    plain, sealed = Store(), Store()
    sealed.envelope = Encryption(ONE)
    warn_of_plain(plain, "Store")
    monkeypatch.setenv(KEY_VARIABLE, ONE)
    warn_of_plain(sealed, "Store")
    warn_of_plain(object(), "Store")
    assert not caplog.records
    warn_of_plain(plain, "Store")
    assert len(caplog.records) == 1


def test_keys_are_in_no_repr_log_or_pickle(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with LLMCache(backend=path, encryption_key=[ONE, TWO]) as cache:
        cache.put(PROMPT, ANSWER)
        shown = [
            repr(cache),
            repr(cache.engine.backend),
            repr(cache.engine.backend.inner),
            repr(Encryption(ONE)),
            repr(vars(cache)),
            caplog.text,
        ]
        assert not [text for text in shown if ONE in text or TWO in text]
        with pytest.raises(TypeError, match=KEY_VARIABLE):
            pickle.dumps(cache)
        with pytest.raises(TypeError, match=KEY_VARIABLE):
            pickle.dumps(Encryption(ONE))


def test_a_cache_with_a_key_of_the_environment_travels_without_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, ONE)
    with LLMCache(backend=path) as cache:
        cache.put(PROMPT, ANSWER)
        packed = pickle.dumps(cache)
    assert ONE.encode() not in packed
    with pickle.loads(packed) as again:
        assert again.get(PROMPT) == ANSWER
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(ValueError, match="here it names none"):  # rather than go on in the clear
        pickle.loads(packed)
