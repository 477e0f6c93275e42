"""Encryption at rest: a stolen store reveals how many entries there are and when, but no content.

AES-256-GCM with a random nonce for each entry, bound to the stored key and to everything that stays
in the clear: times, usage, cost, the lengths, and the id of the encryption key. Model, request and
value are sealed. The digest in the stored key becomes its HMAC, so that a guessed prompt cannot be
looked up without the key. Random nonces set a limit: at most 2**32 entries written with one key.
``cryptography`` is imported when the first key is used.
"""

import base64
import hmac
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.values.entry import (
    CLEAR_BYTES,
    ENCRYPTED,
    KEY_ID_BYTES,
    PLAIN,
    Entry,
    Envelope,
    encrypted_with,
    with_flags,
)

__all__ = [
    "KEY_VARIABLE",
    "PLAIN_KEY",
    "Encryption",
    "Keys",
    "envelope_for",
    "named_key",
    "new_key",
    "warn_of_plain",
]

KEY_VARIABLE = "LLM_CACHE_MEM_KEY"
"""The environment variable with the key, or keys, of every cache that is not given one."""
PLAIN_KEY = "plain"
"""Stands for no encryption where a key is expected."""

Keys = bytes | str | Sequence[bytes | str]
"""One encryption key, or several, as ``Encryption`` takes them."""

_log = logging.getLogger(__name__)

_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_SEALED_AT = CLEAR_BYTES + KEY_ID_BYTES + _NONCE_BYTES
_DOMAIN = b"llm-cache-mem encrypted entry\0"
_TO_STANDARD = str.maketrans("-_", "+/")


def new_key() -> str:
    """A new random key, as ``Encryption`` and LLM_CACHE_MEM_KEY take it."""
    return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).rstrip(b"=").decode()


def named_key() -> str | None:
    """The key, or keys, that the environment names; None if it names none."""
    return os.environ.get(KEY_VARIABLE) or None


def envelope_for(encryption_key: Keys | None) -> Callable[[], Envelope]:
    """A function that returns the envelope of a store, encrypted with *encryption_key* or, where
    that is None, with the key that the environment names when the function is called.

    Raises ValueError or TypeError for anything that is no key, and ImportError without the extra.
    """
    if encryption_key is None:
        return lambda: _envelope(named_key() or PLAIN_KEY)
    envelope = _envelope(encryption_key)
    return lambda: envelope


def _envelope(keys: Keys) -> Envelope:
    return PLAIN if keys == PLAIN_KEY else Encryption(keys)


def warn_of_plain(store: object, name: str) -> None:
    """Log a warning if the environment names a key but *store*, which the user made, writes without
    one."""
    if named_key() is not None and getattr(store, "envelope", None) is PLAIN:
        _log.warning(
            "%s does not reach a %s that is handed in: its entries are not encrypted",
            KEY_VARIABLE,
            name,
        )


class _Key:
    """What is derived from one key: a cipher, a secret for digests, and a name that gives nothing
    away."""

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.id = _derive(secret, b"id", KEY_ID_BYTES)
        self._cipher = AESGCM(_derive(secret, b"entries", _KEY_BYTES))
        self._digest_secret = _derive(secret, b"digests", _KEY_BYTES)

    def encrypt(self, nonce: bytes, data: bytes, bound_to: bytes) -> bytes:
        return self._cipher.encrypt(nonce, data, bound_to)

    def decrypt(self, nonce: bytes, sealed: bytes, bound_to: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(nonce, sealed, bound_to)
        except InvalidTag:
            raise EntryUnreadable("damaged, or stored under another key") from None

    def digest(self, published: str) -> str:
        return hmac.digest(self._digest_secret, published.encode(), "sha256").hex()


class Encryption:
    """The Envelope of stores whose entries are encrypted. Thread-safe.

    Args:
        keys: One key or several, of which the first encrypts and all decrypt: 32 bytes, or those
            as base64url text (several in one text are separated by commas). ``"plain"`` in place
            of a key stands for none: after a key, it lets entries be read that were stored before
            there was one. An entry encrypted with a key that is not given is a miss, and stays in
            the store.

    Raises:
        ValueError: *keys* are no such keys.
        ImportError: ``cryptography`` is not installed.
    """

    def __init__(self, keys: Keys) -> None:
        secrets = [None if text == PLAIN_KEY else _decoded(text) for text in _several(keys)]
        if not secrets or len(set(secrets)) < len(secrets):
            raise ValueError("encryption_key must be one key or several, each once")
        _require_cryptography()
        self._keys = [None if secret is None else _Key(secret) for secret in secrets]
        self._by_id = {key.id.hex(): key for key in self._keys if key is not None}
        self.digests: Sequence[Callable[[str], str]] = [
            str if key is None else key.digest for key in self._keys
        ]

    def __repr__(self) -> str:
        return f"Encryption(<{len(self._keys)} keys>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"encryption keys are not pickled or copied; in other processes let {KEY_VARIABLE} name"
            " them"
        )

    def knows(self, key_id: str) -> bool:
        """Whether the key with that id is one of these."""
        return key_id in self._by_id

    def pack(self, key: str, entry: Entry) -> bytes:
        """As Envelope.pack, encrypted with the first key."""
        first = self._keys[0]
        if first is None:
            return PLAIN.pack(key, entry)
        plain = entry.to_bytes()
        clear = with_flags(plain[:CLEAR_BYTES], ENCRYPTED) + first.id
        nonce = os.urandom(_NONCE_BYTES)
        sealed = first.encrypt(nonce, plain[CLEAR_BYTES:], _bound_to(key, clear))
        return b"".join((clear, nonce, sealed))

    def unpack(self, key: str, data: bytes) -> Entry:
        """As Envelope.unpack. What another cache can read and this one cannot is EntryUnreadable
        with *newer*: it is to stay."""
        key_id = encrypted_with(data)
        if not key_id:
            entry = PLAIN.unpack(key, data)
            if None in self._keys:
                return entry
            raise EntryUnreadable(
                "not encrypted; encryption_key=[..., 'plain'] reads such entries too", newer=True
            )
        if len(data) < _SEALED_AT + _TAG_BYTES:
            raise EntryUnreadable("damaged: length")
        clear = data[: CLEAR_BYTES + KEY_ID_BYTES]
        found = self._by_id.get(key_id)
        if found is None:
            raise EntryUnreadable("encrypted with a key that is not here", newer=True)
        nonce, sealed = data[len(clear) : _SEALED_AT], data[_SEALED_AT:]
        opened = found.decrypt(nonce, sealed, _bound_to(key, clear))
        return Entry.from_bytes(with_flags(clear[:CLEAR_BYTES], 0) + opened)


def _several(keys: Any) -> list[Any]:
    if isinstance(keys, str):
        return [text.strip() for text in keys.split(",")]
    return list(keys) if isinstance(keys, Iterable) and not isinstance(keys, bytes) else [keys]


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as exc:
        if exc.name != "cryptography":  # installed but broken: let that error speak
            raise
        raise ImportError(
            "encryption needs cryptography: pip install 'llm-cache-mem[crypto]'",
            name="cryptography",
        ) from None


def _derive(secret: bytes, purpose: bytes, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt=None, info=b"llm-cache-mem " + purpose).derive(secret)


def _bound_to(key: str, clear: bytes) -> bytes:
    name = key.encode()
    return b"%b%d:%b%b" % (_DOMAIN, len(name), name, clear)


def _decoded(key: Any) -> bytes:
    """The 32 bytes that *key* stands for. The errors do not repeat it."""
    if not isinstance(key, str | bytes):
        raise TypeError(f"an encryption key must be bytes or str, not {type(key).__name__}")
    if isinstance(key, bytes) and len(key) == _KEY_BYTES:
        return key
    try:
        text = (
            (key if isinstance(key, str) else key.decode("ascii"))
            .rstrip("=")
            .translate(_TO_STANDARD)
        )
        secret = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        secret = b""
    if len(secret) != _KEY_BYTES:
        raise ValueError(
            "an encryption key is 32 bytes, or those as base64url text; `llm-cache-mem keygen`"
            " makes one"
        )
    return secret
