"""Identity: which settings of a model, a client or a tool are part of a request.

Each setting is one of four kinds:

- *credential*: an API key, a bearer token, a cookie. Never in a key and never stored. Credentials
  are found by exact name, and only where credentials live: among the settings of an object, among
  the arguments of its client, and among headers. A property called ``password`` in a JSON schema
  is not one.
- *transport*: timeouts, retries, proxies, HTTP clients, callbacks, token providers. They decide how
  a call is made and not what it returns, so they are not in the key.
- *identity*: everything else. It is in the key as plain data; a secret-typed value that is not a
  credential is in it as a digest.
- *opaque*: an object without a wire form that may change the answer, such as a local pipeline. No
  key can be made of it, so the call goes uncached unless the user names the object.

Where a rule is in doubt, the setting counts: the price of that is a miss, not a wrong answer.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum
from functools import cached_property
from hashlib import sha256
from types import ModuleType
from typing import Any, Final, NamedTuple

from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.clients import (
    added_by_client,
    has_state,
    is_client,
    is_http_client,
    is_of_program,
    is_transport,
    settings_of_client,
    without_user,
)
from llm_cache_mem.keys.names import (
    CREDENTIAL_QUERY,
    TRANSPORT,
    WORDS,
    Kind,
    header_kind,
    is_credential,
    plain_name,
)
from llm_cache_mem.keys.wire_form import Refused, is_absent, tagged

__all__ = [
    "Identity",
    "Opaque",
    "describe",
    "kind_of",
    "secret_digest",
    "settings_of",
]

_HEADERS: Final = frozenset(
    {"additional_headers", "custom_headers", "default_headers", "extra_headers", "headers"}
)
_CLIENT_ARGUMENTS: Final = frozenset(
    {
        "async_client_kwargs", "client_args", "client_kwargs", "client_options",
        "http_client_kwargs", "sync_client_kwargs",
    }
)  # fmt: skip
"""Settings whose items are settings in their turn."""
_MODEL_NAMES: Final = frozenset(
    {"model", "model_id", "model_name", "model_path", "repo_id", "tokenizer", "tokenizer_name"}
)
_LOCAL_PATH: Final = r"[./~\\]|[A-Za-z]:[/\\]"
_MAX_DEPTH: Final = 16
_DROPPED: Final = object()


class Opaque(Exception):
    """An object of which nothing stable can be said. *steps* lead to it, from the inside out."""

    def __init__(self, value: object) -> None:
        super().__init__(type(value).__name__)
        self.type_name = type(value).__name__
        self.steps: list[str] = []

    @property
    def path(self) -> str:
        return ".".join(reversed(self.steps))


@without_content
class Identity(NamedTuple):
    """The *settings* that are part of a request, as data that keys can be made of; *opaque* names
    those of which none can be made, with the type of each."""

    settings: dict[str, Any]
    opaque: Mapping[str, str]

    def require_known(self) -> dict[str, Any]:
        """The settings; RequestNotCacheable if any setting is opaque."""
        for path, type_name in self.opaque.items():
            raise RequestNotCacheable(
                path, f"this {type_name} has no wire form; name it: identity="
            )
        return self.settings


Unknown = Callable[[Any], Any]


def _refuse(value: Any) -> Any:
    raise Opaque(value)


def describe(
    settings: Iterable[tuple[str, Any]],
    *,
    transport: Collection[str] = (),
    unknown: Unknown = _refuse,
) -> Identity:
    """What of *settings*, pairs of name and value, is part of a request.

    Args:
        settings: The settings of one object, as ``settings_of`` lists them.
        transport: Further names that are transport where these settings come from.
        unknown: What to do with an object that has no wire form: return plain data that stands for
            it, or raise Opaque.
    """
    reader = _Reader(transport, unknown)
    found: dict[str, Any] = {}
    opaque: dict[str, str] = {}
    clients: dict[str, Any] = {}
    for name, value in settings:
        try:
            plain = reader.setting(name, value, _MAX_DEPTH)
        except Opaque as exc:
            exc.steps.append(name)
            opaque[exc.path] = exc.type_name
            continue
        if plain is not _DROPPED:
            found[name] = plain
        elif value is not None and (is_client(name, value) or is_http_client(value)):
            clients[name] = value
    said: dict[str, Any] = {}  # clients of one model mostly say the same
    for name, client in clients.items():
        for setting, text in _said_by(client):
            if said.setdefault(setting, text) != text:
                said[f"{name}.{setting}"] = text
    found.update({f"client.{name}" if name in found else name: said[name] for name in said})
    return Identity(found, opaque)


def kind_of(name: str, value: Any, *, transport: Collection[str] = ()) -> Kind:
    """The kind of the setting *name* with *value*."""
    if is_credential(plain_name(name)):
        return "credential"
    try:
        plain = _Reader(transport, _refuse).setting(name, value, _MAX_DEPTH)
    except Opaque:
        return "opaque"
    return "transport" if plain is _DROPPED else "identity"


def settings_of(obj: Any) -> Iterator[tuple[str, Any]]:
    """The name and value of all state of *obj*, a pydantic model or another object with attributes:
    fields, extra fields and private attributes, but not cached properties, which follow from the
    rest."""
    cls = type(obj)
    for holder in ("__dict__", "__pydantic_extra__", "__pydantic_private__"):
        for name, value in dict(getattr(obj, holder, None) or {}).items():
            if not isinstance(getattr(cls, name, None), cached_property):
                yield name, value


def secret_digest(text: str | bytes) -> str:
    """The digest of a secret in a request."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return "sha256:" + sha256(data).hexdigest()[:32]


_ANYTHING: Final = secret_digest("*/*")


class _Reader:
    """Reads settings, level by level, into plain data."""

    def __init__(self, transport: Collection[str], unknown: Unknown) -> None:
        self._transport = transport
        self._unknown = unknown

    def setting(self, name: str, value: Any, depth: int) -> Any:
        """*value* as plain data; _DROPPED if it is no part of a request. Raises Opaque."""
        plain = plain_name(name)
        if value is None or is_absent(type(value)) or is_credential(plain) or plain in TRANSPORT:
            return _DROPPED
        if plain in self._transport or name in self._transport or plain.endswith("_proxy"):
            return _DROPPED
        if is_transport(value) or is_client(plain, value):
            return _DROPPED
        if isinstance(value, Mapping):
            if plain in _HEADERS:
                return _headers(value) or _DROPPED
            if plain in _CLIENT_ARGUMENTS:
                return self._settings(value.items(), depth)
        if plain in _MODEL_NAMES and _is_local(value):  # other files may stand there tomorrow
            raise Opaque(value)
        return self.value(value, depth)

    def value(self, value: Any, depth: int) -> Any:
        """*value* as plain data; raises Opaque."""
        if isinstance(value, Enum):
            return self.value(value.value, depth)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return without_user(str.__str__(value))
        if hasattr(value, "get_secret_value"):
            return _secret(value)
        if depth == 0:
            raise Opaque(value)
        if isinstance(value, Mapping):
            return {name: self._item(str(name), item, depth) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._item(f"[{i}]", item, depth) for i, item in enumerate(value)]
        if isinstance(value, (set, frozenset)) and all(isinstance(item, str) for item in value):
            return sorted(value)
        return self._object(value, depth)

    def _item(self, name: str, value: Any, depth: int) -> Any:
        if isinstance(value, str) and value and is_credential(plain_name(name)):
            return secret_digest(value)  # it may tell two requests apart, and must not be stored
        try:
            return self.value(value, depth - 1)
        except Opaque as exc:
            exc.steps.append(name)
            raise

    def _settings(self, settings: Iterable[tuple[str, Any]], depth: int) -> dict[str, Any]:
        found = {}
        for name, item in settings:
            try:
                plain = self.setting(str(name), item, depth - 1)
            except Opaque as exc:
                exc.steps.append(str(name))
                raise
            if plain is not _DROPPED:
                found[name] = plain
        return found

    def _object(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if isinstance(value, os.PathLike):
            return os.fsdecode(value)
        if isinstance(value, ModuleType):
            return value.__name__
        if kind.__name__ in ("URL", "AnyUrl", "HttpUrl"):
            return without_user(str(value))
        try:
            if tagged(value, kind) is not None:  # a date, bytes, a model class: the key has a form
                return value
        except Refused:
            raise Opaque(value) from None
        if isinstance(value, type) or not has_state(kind):
            return self._unknown(value)
        name = f"{kind.__module__}:{kind.__qualname__}"
        read = self._data if is_of_program(kind) else self._settings
        return {"class": name, **read(settings_of(value), depth)}

    def _data(self, settings: Iterable[tuple[str, Any]], depth: int) -> dict[str, Any]:
        """The fields of an object of the program's own, of which only the values tell whether they
        are about calls: its ``verbose`` may ask for a long answer."""
        found = {}
        for name, item in settings:
            plain = plain_name(name)
            word = plain in WORDS and isinstance(item, str)
            if item is None or is_absent(type(item)) or (is_credential(plain) and not word):
                continue
            if is_transport(item) or is_client(plain, item):
                if said := dict(_said_by(item)):
                    found[name] = said
                continue
            found[name] = self._item(name, item, depth)
        return found


def _is_local(model: Any) -> bool:
    return isinstance(model, (str, os.PathLike)) and bool(re.match(_LOCAL_PATH, os.fsdecode(model)))


def _headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Those that may change an answer, by lower-case name. Any of them may be a secret under a name
    of the user's own, so there is a digest in place of the value."""
    return {
        name.lower(): secret_digest(_header_text(value))
        for name, value in sorted((str(name), value) for name, value in headers.items())
        if header_kind(name) == "identity" and value is not None and not is_absent(type(value))
    }


def _said_by(client: Any) -> Iterator[tuple[str, Any]]:
    """What *client* says in the requests that it sends."""
    yield from settings_of_client(client)
    added: dict[str, dict[str, Any]] = {}
    for kind, items in added_by_client(client):
        said = _headers(items) if kind == "headers" else _query(items)
        added.setdefault(kind, {}).update(said)
    for kind, items in added.items():  # few clients add anything
        if items.get("accept") == _ANYTHING:  # the default of HTTP libraries
            del items["accept"]
        if items:
            yield kind, items


def _query(fields: Mapping[Any, Any]) -> dict[str, str]:
    named = {str(name): secret_digest(str(value)) for name, value in fields.items()}
    return {name: named[name] for name in named if name.lower() not in CREDENTIAL_QUERY}


def _header_text(value: Any) -> str | bytes:
    if isinstance(value, (str, bytes)):
        return value
    if hasattr(value, "get_secret_value"):
        return value.get_secret_value()  # type: ignore[no-any-return]  # a str or bytes
    if isinstance(value, (bool, int, float)):
        return str(value)
    raise Opaque(value)


def _secret(value: Any) -> str:
    text = value.get_secret_value()
    if not isinstance(text, (str, bytes)):
        raise Opaque(value)
    return secret_digest(text)
