"""Entry: a value at rest with what is known about the call that made it, and its envelope for
stores that keep bytes.

Envelope, little endian: magic, version, flags, which optional fields are present, fixed header,
then model, request and body at the lengths the header gives, then the length of the dependencies
and these, if there are any, then tags if there are any, then 16 bytes of SHA-256 over the key and
all that came before. A value can therefore not be read under another key, nor with a bit changed.
Where the flags say ENCRYPTED, all that follows usage is sealed (encryption.py).
"""

import json
import struct
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, Protocol, TypeAlias

from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.values.payload import Payload

__all__ = [
    "CLEAR_BYTES",
    "ENCRYPTED",
    "FORMAT_VERSION",
    "KEY_ID_BYTES",
    "MAX_BODY_BYTES",
    "MAX_ENTRY_BYTES",
    "PLAIN",
    "STORED_AT",
    "TIMES_BYTES",
    "Account",
    "Entry",
    "EntryMemo",
    "Envelope",
    "Remembered",
    "encrypted_with",
    "times_in",
    "with_flags",
]

FORMAT_VERSION = 1
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_ENTRY_BYTES = 2 * MAX_BODY_BYTES  # of an envelope; stores read no more
ENCRYPTED = 1  # the only flag there is

_MAGIC = b"\x89LCM"
_DOMAIN = b"llm-cache-mem entry\0"
_TAG_BYTES = 16
_PREFIX_BYTES = 7
# prefix, times and cost, usage, lengths of model, request and body
_HEADER = struct.Struct("<4sBBB4d5qHII")
_HEADER_BYTES = _HEADER.size
_ROOM = 1024  # for all else in an envelope, encrypted or not
CLEAR_BYTES = _HEADER_BYTES - 10  # what an encrypted envelope leaves readable: all but the lengths
_TIMES = struct.Struct("<4sBBB2d")
TIMES_BYTES = 23  # at the beginning of any envelope, encrypted or not
STORED_AT = slice(_PREFIX_BYTES, _PREFIX_BYTES + 8)  # where it is in them, as a double
KEY_ID_BYTES = 8  # of the encryption key; they follow in the clear
_FLAGS_AT = 5
_SLOT_BYTES = 1024  # of an Entry with what it holds but its value
_MEMO_SHARE = 64  # an entry is remembered if so many of its size would be
_NO_USAGE = (0, 0, 0, 0, 0)
_HAS_EXPIRY, _HAS_COST, _HAS_SECONDS, _HAS_USAGE, _HAS_MODEL, _HAS_REQUEST, _HAS_TAGS, _DEPENDS = (
    1 << bit for bit in range(8)
)
_LENGTH = struct.Struct("<I")
_BETWEEN_TAGS = "\n"


Account: TypeAlias = Callable[
    [Payload, str | None], tuple[str | None, tuple[int, ...] | None, float | None]
]
"""Reads the model, usage and cost of a call from a payload and the model that was asked for."""


class Entry:
    """What a store keeps under a key. Immutable by convention, so that threads and callers may
    share one.

    Times are Unix seconds; *expires_at* None means never. *usage* is input (inclusive), output,
    cache read, cache write and one-hour cache write tokens; *cost_usd* and *seconds* are what the
    stored call took; *request* is its canonical JSON, stored only by caches that keep requests.
    None means unknown. *tags* are those of that call, such as ``team=search``. *depends_on* are the
    sorted names of what the value depends on, *generation* is a mark of their generations when the
    call began. *account* reads model, usage and cost from the payload and the model asked for, when
    one of them is wanted.
    """

    __slots__ = (
        "_account",
        "_cost_usd",
        "_model",
        "_usage",
        "depends_on",
        "expires_at",
        "generation",
        "key",
        "payload",
        "request",
        "seconds",
        "stored_at",
        "tags",
    )

    key: str
    """Under which it last answered a call; set only where a store counts that."""

    def __init__(
        self,
        payload: Payload,
        stored_at: float,
        expires_at: float | None = None,
        model: str | None = None,
        usage: tuple[int, ...] | None = None,
        cost_usd: float | None = None,
        seconds: float | None = None,
        request: bytes | None = None,
        tags: tuple[str, ...] = (),
        account: Account | None = None,
        depends_on: tuple[str, ...] = (),
        generation: str = "",
    ) -> None:
        self.payload = payload
        self.stored_at = stored_at
        self.expires_at = expires_at
        self._model = model
        self._usage = usage
        self._cost_usd = cost_usd
        self._account = account
        self.seconds = seconds
        self.request = request
        self.tags = tags
        self.depends_on = depends_on
        self.generation = generation

    def __repr__(self) -> str:
        return (
            f"Entry(size={self.size}, stored_at={self.stored_at!r}, expires_at={self.expires_at!r},"
            f" model={self.model!r})"
        )

    @property
    def model(self) -> str | None:
        return self._model if self._account is None else self.accounted()[0]

    @property
    def usage(self) -> tuple[int, ...] | None:
        return self._usage if self._account is None else self.accounted()[1]

    @property
    def cost_usd(self) -> float | None:
        return self._cost_usd if self._account is None else self.accounted()[2]

    def accounted(self) -> tuple[str | None, tuple[int, ...] | None, float | None]:
        """The *model*, *usage* and *cost_usd*, read if they were not yet."""
        account = self._account
        if account is not None:
            self._model, self._usage, self._cost_usd = account(self.payload, self._model)
            self._account = None  # last: a thread that sees this finds the others
        return self._model, self._usage, self._cost_usd

    @property
    def size(self) -> int:
        """Bytes of the value and, if stored, of the request, the tags and the dependencies."""
        size = self.payload.size + (0 if self.request is None else len(self.request))
        if self.tags or self.depends_on:
            size += sum(map(len, (*self.tags, *self.depends_on)))
        return size

    def is_expired(self, now: float) -> bool:
        """Whether it says of itself that it is too old at *now*, in Unix seconds; who reads may be
        stricter."""
        return self.expires_at is not None and now >= self.expires_at

    def pack(self, key: str) -> bytes:
        """The envelope to keep under *key*; ValueNotCacheable when the value is over MAX_BODY_BYTES
        or a field out of range."""
        sealed = self.to_bytes()
        return sealed + _tag(key, sealed)

    @classmethod
    def unpack(cls, key: str, data: bytes) -> "Entry":
        """The entry that ``pack(key)`` wrote as *data*; EntryUnreadable for anything else. The
        value is decoded by ``decode()``."""
        if type(data) is not bytes or len(data) < _HEADER_BYTES + _TAG_BYTES:
            raise _foreign(data)
        sealed = data[:-_TAG_BYTES]
        entry = cls.from_bytes(sealed)
        if _tag(key, sealed) != data[-_TAG_BYTES:]:
            raise EntryUnreadable("damaged, or stored under another key")
        return entry

    def to_bytes(self) -> bytes:
        """The envelope without its checksum; raises as ``pack``."""
        body = self.payload.to_bytes()
        model, usage, cost_usd = self.accounted()
        model_bytes = b"" if model is None else model.encode("utf-8", "replace")
        request = self.request or b""
        if len(body) > MAX_BODY_BYTES:
            raise ValueNotCacheable("value", f"more than {MAX_BODY_BYTES} bytes")
        if len(model_bytes) + len(request) > MAX_BODY_BYTES - _ROOM:
            raise ValueNotCacheable("request", f"more than {MAX_BODY_BYTES - _ROOM} bytes")
        present = (
            (0 if self.expires_at is None else _HAS_EXPIRY)
            | (0 if cost_usd is None else _HAS_COST)
            | (0 if self.seconds is None else _HAS_SECONDS)
            | (0 if usage is None else _HAS_USAGE)
            | (0 if model is None else _HAS_MODEL)
            | (0 if self.request is None else _HAS_REQUEST)
            | (_HAS_TAGS if self.tags else 0)
            | (_DEPENDS if self.depends_on else 0)
        )
        try:
            header = _HEADER.pack(
                *(_MAGIC, FORMAT_VERSION, 0, present),
                *(
                    self.stored_at,
                    self.expires_at or 0.0,
                    cost_usd or 0.0,
                    self.seconds or 0.0,
                ),
                *(usage or _NO_USAGE),
                *(len(model_bytes), len(request), len(body)),
            )
        except (struct.error, OverflowError) as exc:
            raise ValueNotCacheable("entry", f"a field is out of range: {exc}") from None
        tags = _BETWEEN_TAGS.join(self.tags).encode("utf-8", "replace")
        return b"".join((header, model_bytes, request, body, self._dependencies(), tags))

    def _dependencies(self) -> bytes:
        if not self.depends_on:
            return b""
        names = json.dumps([self.generation, *self.depends_on]).encode()
        return _LENGTH.pack(len(names)) + names

    @classmethod
    def from_bytes(cls, data: bytes) -> "Entry":
        """The entry that ``to_bytes`` wrote as *data*; EntryUnreadable for anything else."""
        if len(data) < _HEADER_BYTES:
            raise _foreign(data)
        (
            magic,
            version,
            flags,
            present,
            stored_at,
            expires_at,
            cost_usd,
            seconds,
            *usage,
            model_len,
            request_len,
            body_len,
        ) = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != FORMAT_VERSION or flags:
            raise _foreign(data)
        model_end = _HEADER_BYTES + model_len
        request_end = model_end + request_len
        end = request_end + body_len
        generation, depends_on, tags_at = (
            _dependencies_in(data, end) if present & _DEPENDS else ("", (), end)
        )
        tagged = bool(present & _HAS_TAGS)
        whole = tags_at < len(data) if tagged else tags_at == len(data)
        if not whole or body_len > MAX_BODY_BYTES:
            raise EntryUnreadable("damaged: length")
        if stored_at - stored_at != 0.0 or expires_at != expires_at:  # NaN would be fresh for ever
            raise EntryUnreadable("times that are no numbers")
        return cls(
            Payload.from_json(data[request_end:end]),
            stored_at,
            expires_at if present & _HAS_EXPIRY else None,
            model=(
                data[_HEADER_BYTES:model_end].decode("utf-8", "replace")
                if present & _HAS_MODEL
                else None
            ),
            usage=tuple(usage) if present & _HAS_USAGE else None,
            cost_usd=cost_usd if present & _HAS_COST else None,
            seconds=seconds if present & _HAS_SECONDS else None,
            request=data[model_end:request_end] if present & _HAS_REQUEST else None,
            tags=(
                tuple(data[tags_at:].decode("utf-8", "replace").split(_BETWEEN_TAGS))
                if tagged
                else ()
            ),
            depends_on=depends_on,
            generation=generation,
        )


class Envelope(Protocol):
    """How a store that keeps bytes turns an entry into them and back: as it is (PLAIN), or
    encrypted (encryption.Encryption).

    A store has its envelope as its attribute ``envelope``, where the cache looks for *digests*:
    functions from the published digest of a request to the one in its stored key, the first for
    what is written, the others for what may still be read. None: as it is.
    """

    digests: Sequence[Callable[[str], str]]

    def knows(self, key_id: str) -> bool:
        """Whether it reads what is encrypted with the key of that id."""
        ...

    def pack(self, key: str, entry: Entry) -> bytes:
        """The bytes to keep under *key*. ValueNotCacheable when the entry does not fit."""
        ...

    def unpack(self, key: str, data: bytes) -> Entry:
        """The entry that ``pack(key, entry)`` wrote as *data*. EntryUnreadable for anything
        else."""
        ...


class _PlainEnvelope:
    digests: Sequence[Callable[[str], str]] = ()

    def knows(self, key_id: str) -> bool:
        return False

    def pack(self, key: str, entry: Entry) -> bytes:
        return entry.pack(key)

    def unpack(self, key: str, data: bytes) -> Entry:
        return Entry.unpack(key, data)


PLAIN: Final[Envelope] = _PlainEnvelope()


class EntryMemo:
    """The entries of envelopes read lately: the same bytes under the same key give the same Entry,
    unchecked and undecoded.

    For stores that read the same row again and again. Holds about *max_bytes*, of entries that take
    a small part of that each, and begins anew when it is full: those in use are soon back. Without
    a lock: what is remembered of a key is replaced as a whole.
    """

    def __init__(self, max_bytes: int = 16 << 20, *, envelope: Envelope = PLAIN) -> None:
        self._envelope = envelope
        self._max_bytes = max_bytes
        self._bytes = 0
        self._slots: dict[str, Remembered] = {}

    def recall(self, key: str, mark: object) -> "Remembered | None":
        """What was read under that *mark*, of when nothing had been written since."""
        found = self._slots.get(key)
        if found is None or found.mark != mark:
            return None
        self._bytes += found.entry.payload.keep_tree()  # what is read twice is read again
        return found

    def get(self, key: str, data: bytes) -> Entry:
        """What *envelope* unpacks from *data*, or the entry that it gave before for the same
        bytes."""
        return self.read(key, data).entry

    def read(self, key: str, data: bytes, mark: object = None, used: object = None) -> "Remembered":
        """As ``get``; *mark*, of the time before *data* was read, and when it was last *used* are
        remembered."""
        known = self._slots.get(key)
        if known is not None and known.data == data:
            known.mark, known.used = mark, used
            self._bytes += known.entry.payload.keep_tree()
            return known
        found = Remembered(data, self._envelope.unpack(key, data), mark, used)
        size = 2 * len(data) + _SLOT_BYTES
        if size * _MEMO_SHARE <= self._max_bytes:
            if self._bytes + size > self._max_bytes:
                self._slots.clear()
                self._bytes = 0
            self._slots[key] = found
            self._bytes += size
        return found

    def note_written(self, key: str, data: bytes, entry: Entry, mark: object, used: object) -> None:
        """Remember *entry*, which was written as *data*, as if it was read; where there is no room
        for it, it is read when it is asked for."""
        size = 2 * len(data) + _SLOT_BYTES
        if size * _MEMO_SHARE <= self._max_bytes and self._bytes + size <= self._max_bytes:
            self._slots[key] = Remembered(data, entry, mark, used)
            self._bytes += size


class Remembered:
    """An entry, the bytes that it was read from, and what else was known of them then."""

    __slots__ = ("data", "entry", "mark", "used")

    def __init__(self, data: bytes, entry: Entry, mark: object, used: object) -> None:
        self.data = data
        self.entry = entry
        self.mark = mark
        self.used = used


def encrypted_with(data: bytes) -> str:
    """The id of the key that an envelope of this version is encrypted with, as hex; "" if it is
    not, or is none."""
    ours = type(data) is bytes and data[:4] == _MAGIC and data[4:5] == b"%c" % FORMAT_VERSION
    encrypted = ours and data[_FLAGS_AT : _FLAGS_AT + 1] == b"%c" % ENCRYPTED
    return data[CLEAR_BYTES : CLEAR_BYTES + KEY_ID_BYTES].hex() if encrypted else ""


def times_in(data: bytes) -> tuple[float, float | None] | None:
    """When the envelope that begins with *data* says it was stored, and when it expires; None if it
    is none of this version."""
    if len(data) < TIMES_BYTES or data[:4] != _MAGIC or data[4] != FORMAT_VERSION:
        return None
    *_, present, stored_at, expires_at = _TIMES.unpack_from(data)
    return stored_at, expires_at if present & _HAS_EXPIRY else None


def with_flags(data: bytes, flags: int) -> bytes:
    """The envelope, or its beginning, with these *flags*."""
    return b"%b%c%b" % (data[:_FLAGS_AT], flags, data[_FLAGS_AT + 1 :])


def _dependencies_in(data: bytes, start: int) -> tuple[str, tuple[str, ...], int]:
    """The generation and the names that are in *data* from *start* on, and where they end."""
    names_at = start + _LENGTH.size
    try:
        end = names_at + _LENGTH.unpack_from(data, start)[0]
        generation, *names = json.loads(data[names_at:end].decode("ascii"))
    except (struct.error, ValueError, TypeError, RecursionError):
        raise EntryUnreadable("damaged: dependencies") from None
    if not names or not all(type(text) is str for text in (generation, *names)):
        raise EntryUnreadable("damaged: dependencies")
    return generation, tuple(names), end


def _foreign(data: bytes) -> EntryUnreadable:
    """Why *data* is not even the beginning of an envelope of this version."""
    if type(data) is not bytes or len(data) < _PREFIX_BYTES or data[:4] != _MAGIC:
        return EntryUnreadable("not an entry of this library")
    version, flags = data[4:6]
    if version == FORMAT_VERSION and flags == ENCRYPTED:
        return EntryUnreadable("encrypted, and there is no key to read it with", newer=True)
    if version > FORMAT_VERSION or (version == FORMAT_VERSION and flags):
        return EntryUnreadable("written by a newer version", newer=True)
    return EntryUnreadable("damaged: header")


def _tag(key: str, sealed: bytes) -> bytes:
    name = key.encode()
    return sha256(b"%b%d:%b%b" % (_DOMAIN, len(name), name, sealed)).digest()[:_TAG_BYTES]
