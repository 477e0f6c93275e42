"""Encryption at rest: what a stolen store still tells is when, how many and how large, not what was
asked or answered.

AES-256-GCM, a random nonce for each entry, bound to the stored key and to what stays in the clear:
times, usage, cost, the lengths, and which key it was. Model, request and value are sealed. The
digest in the stored key becomes its HMAC, so that nobody without the key can look up a guessed
prompt. The bound of random nonces: at most 2**32 entries written with one key.
"""

import base64
import hmac
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.values.encryption_keys import KEY_VARIABLE, Keys
from llm_cache_mem.values.entry import (
    CLEAR_BYTES,
    ENCRYPTED,
    KEY_ID_BYTES,
    PLAIN,
    Entry,
    encrypted_with,
    with_flags,
)

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ModuleNotFoundError as exc:
    if (
        exc.name is None or exc.name.partition(".")[0] != "cryptography"
    ):  # installed but broken: let that error speak
        raise
    raise ImportError(
        "encryption needs cryptography: pip install 'llm-cache-mem[crypto]'", name="cryptography"
    ) from None

__all__ = ["PLAIN_KEY", "Encryption", "new_key"]

PLAIN_KEY = "plain"

_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_SEALED_AT = CLEAR_BYTES + KEY_ID_BYTES + _NONCE_BYTES
_DOMAIN = b"llm-cache-mem encrypted entry\0"
_TO_STANDARD = str.maketrans("-_", "+/")


def new_key() -> str:
    """A new random key, as ``Encryption`` and LLM_CACHE_MEM_KEY take it."""
    return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).rstrip(b"=").decode()


class _Key:
    """What is derived from one key: a cipher, a secret for digests, and a name that gives nothing
    away."""

    def __init__(self, secret: bytes) -> None:
        self.id = _derive(secret, b"id", KEY_ID_BYTES)
        self.cipher = AESGCM(_derive(secret, b"entries", _KEY_BYTES))
        self._digest_secret = _derive(secret, b"digests", _KEY_BYTES)

    def digest(self, published: str) -> str:
        return hmac.digest(self._digest_secret, published.encode(), "sha256").hex()


class Encryption:
    """The Envelope of stores whose entries are encrypted. Thread-safe.

    *keys*: one key, or several, of which the first writes and all read: 32 bytes, or those as
      base64url text (several in one text
    are separated by commas). ``"plain"`` in place of a key stands for none: behind a key it lets
    what was stored before there was one still be read. An entry of a key that is not here is a miss
    and stays where it is. ValueError for what is no key.
    """

    def __init__(self, keys: Keys) -> None:
        secrets = [None if text == PLAIN_KEY else _decoded(text) for text in _several(keys)]
        if not secrets or len(set(secrets)) < len(secrets):
            raise ValueError("encryption_key must be one key or several, each once")
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
        return b"".join(
            (clear, nonce, first.cipher.encrypt(nonce, plain[CLEAR_BYTES:], _bound_to(key, clear)))
        )

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
        try:
            sealed = found.cipher.decrypt(
                data[len(clear) : _SEALED_AT], data[_SEALED_AT:], _bound_to(key, clear)
            )
        except InvalidTag:
            raise EntryUnreadable("damaged, or stored under another key") from None
        return Entry.from_bytes(with_flags(clear[:CLEAR_BYTES], 0) + sealed)


def _several(keys: Any) -> list[Any]:
    if isinstance(keys, str):
        return [text.strip() for text in keys.split(",")]
    return list(keys) if isinstance(keys, Iterable) and not isinstance(keys, bytes) else [keys]


def _derive(secret: bytes, purpose: bytes, length: int) -> bytes:
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
            "an encryption key is 32 bytes, or those as base64url text; `llm-cache-mem key --new`"
            " makes one"
        )
    return secret
