"""Keep credentials apart: each has a namespace of its own, named by a keyed digest."""

import hmac
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from llm_cache_mem.http.headers import credentials_of
from llm_cache_mem.stores.urls import locate
from llm_cache_mem.stores.writers import warn_of_owner

__all__ = ["KEY_VARIABLE", "credential_namespace", "gateway_key", "is_signed", "namespace_of"]

KEY_VARIABLE: Final = "LLM_CACHE_MEM_GATEWAY_KEY"

_KEY_BYTES = 32
_SHORTEST_KEY = 16
_SIGNED = ("aws4-", "aws4a-")


def credential_namespace(
    headers: Iterable[tuple[str, str]], key: bytes | str, query: str = ""
) -> str:
    """The namespace in which a gateway with *key* stores answers to requests with the credentials
    in *headers* and in a URL's *query*.

    A Python program that uses the store directly shares the gateway's answers by this namespace:

    Example:
        >>> namespace = credential_namespace([("authorization", f"Bearer {api_key}")], key)
        >>> cache = LLMCache(backend="sqlite://./cache.db", namespace=namespace)
    """
    found = credentials_of([(name.lower(), value) for name, value in headers], query)
    return namespace_of(tuple(found), key.encode() if isinstance(key, str) else key)


def namespace_of(credentials: tuple[tuple[str, str], ...], key: bytes) -> str:
    """The namespace of *credentials*, as ``http.headers.credentials_of`` finds them."""
    facts = repr(credentials).encode("utf-8", "surrogatepass")
    return "credential-" + hmac.new(key, facts, sha256).hexdigest()[:32]


def is_signed(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether the credential is a signature of this one request, which is checked by the provider
    alone and stands for no caller."""
    return any(
        name.lower() == "authorization" and value.strip().lower().startswith(_SIGNED)
        for name, value in headers
    )


def gateway_key(backend: str) -> bytes:
    """The key of credential namespaces: that of the environment, else the one in a file beside the
    store, which is made if absent; a random one for a store in memory.

    Raises:
        ValueError: The store is on a server, and the environment names no key; or the file holds
            none.
        OSError: The file cannot be read or made.
    """
    named = os.environ.get(KEY_VARIABLE)
    if named:
        return named.encode()
    scheme, place = locate(backend)
    if scheme.in_file:
        return _in_file(Path(f"{place}.gateway-key"))
    if scheme.on_server or backend.startswith("tiered:"):
        raise ValueError(
            f"set {KEY_VARIABLE} to one secret for all gateways of this store (llm-cache-mem keygen"
            " makes one), or share answers among all callers (--share all)"
        )
    return secrets.token_hex(_KEY_BYTES).encode()


def _in_file(path: Path) -> bytes:
    made = secrets.token_hex(_KEY_BYTES).encode()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        return _read(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(made)
        os.link(temporary, path)  # whole, or another gateway's that was first
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)
    return _read(path)


def _read(path: Path) -> bytes:
    found = path.stat()
    warn_of_owner(str(path), found)
    key = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
    if len(key.strip()) < _SHORTEST_KEY:
        raise ValueError(f"{path} holds no key: remove it, and a new one is made")
    return key
