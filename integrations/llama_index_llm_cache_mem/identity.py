"""Which model is asked and with what: an LLM's real parameters and base URL, never secrets or what
only changes how a call is made."""

import logging
import re
import secrets
import sys
import weakref
from collections.abc import Iterator, Mapping
from copy import deepcopy
from enum import Enum
from functools import cached_property, lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any, Final, NamedTuple

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.generic_utils import (
    messages_to_prompt as generic_messages_to_prompt,
)
from llama_index.core.bridge.pydantic import AnyUrl, BaseModel, SecretStr
from llama_index.core.llms.llm import default_completion_to_prompt
from llama_index.core.tools import BaseTool

from llm_cache_mem import RequestNotCacheable
from llm_cache_mem.decorators import fingerprint

__all__ = ["call_params", "identity"]

_HOW_IT_IS_CALLED: Final = frozenset(
    {
        "callback_manager",
        "rate_limiter",
        "output_parser",
        "pydantic_program_mode",
        "verbose",
        "tokenizer",
    }
    | {"max_retries", "timeout", "request_timeout", "reuse_client", "keep_alive"}
)
_PROMPTS: Final = frozenset({"messages_to_prompt", "completion_to_prompt", "query_wrapper_prompt"})
"""Left out of dumps by LlamaIndex, yet some integrations apply them where the model is called."""
_DEFAULT_PROMPTS: Final = (generic_messages_to_prompt, default_completion_to_prompt)
_URLS: Final = (
    "api_base",
    "base_url",
    "azure_endpoint",
    "endpoint",
    "endpoint_url",
    "host",
    "api_url",
    "url",
)
_MODELS: Final = ("model", "model_name", "model_id")
_SECRET: Final = re.compile(
    r"api[-_]?key|secret|passw|credential|cookie|bearer|authorization|x-[\w-]*auth|access[-_]?key|private[-_]?key"
    r"|(^|[-_])auth$|(^|(auth|access|refresh|session|security|api|ad|hf|id|user|service|github)[-_]?)token$",
    re.IGNORECASE,
)
_USER_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]*@")
_MAX_DEPTH: Final = 12


class _Opaque(Exception):
    """An object of which nothing stable can be said."""


class _State(NamedTuple):
    """What is remembered about one LLM object: *watched* are the values that *identity* was made
    from, as they were then."""

    llm: "weakref.ref[BaseLLM]"
    instance: str
    watched: tuple[tuple[bool, str, Any], ...] | None = None
    identity: dict[str, Any] | None = None


_states: dict[int, _State] = {}
_log = logging.getLogger(__name__)


def identity(llm: BaseLLM) -> Mapping[str, Any]:
    """The parameters of *llm* as one flat mapping, which nobody may change; ``model`` names it.

    An LLM that has parts nobody can name, such as a local pipeline, and no model name, shares
    answers with itself only.
    """
    state = _states.get(id(llm))
    if (
        state is not None
        and state.identity is not None
        and state.llm() is llm
        and _unchanged(llm, state.watched)
    ):
        return state.identity
    return _remember(llm)


def call_params(identity: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a call: those of the LLM, and over them those given with the call."""
    params = {**identity, **{name: _argument(value) for name, value in kwargs.items()}}
    shadowed = {name: identity[name] for name in kwargs if name in identity}
    if shadowed:  # an integration need not let the argument win
        params["llm_defaults"] = shadowed
    return params


def _argument(value: Any) -> Any:
    """Tools as what a model is told of them; all else is for the core to judge."""
    if isinstance(value, BaseTool):
        tool = value.metadata
        return {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.get_parameters_dict(),
        }
    if isinstance(value, (list, tuple)):
        return [_argument(item) for item in value]
    return value


# -- Remembering


def _unchanged(llm: BaseLLM, watched: Any) -> bool:
    fields, private = llm.__dict__, llm.__pydantic_private__ or {}
    for is_field, name, seen in watched:
        value = (fields if is_field else private).get(name)
        if value is not seen and (value != seen or type(value) is not type(seen)):
            return False
    return True


def _remember(llm: BaseLLM) -> dict[str, Any]:
    key = id(llm)
    state = _states.get(key)
    if state is None or state.llm() is not llm:
        state = _State(weakref.ref(llm, lambda gone: _forget(key, gone)), secrets.token_hex(8))
        _states[key] = state
    found, watched = _describe(llm, state.instance)
    if "instance" in found:
        _say_once(found["class"])
    _states[key] = state._replace(watched=watched, identity=found if watched is not None else None)
    return found


@lru_cache(maxsize=1024)
def _say_once(name: str) -> None:
    _log.info(
        "%s has no model name and holds objects that are no data: what one such LLM answers is kept"
        " for that one only",
        name,
    )


def _forget(key: int, gone: Any) -> None:
    state = _states.get(key)
    if state is not None and state.llm is gone:  # an object made since may have the same id
        _states.pop(key, None)


# -- Describing


def _describe(
    llm: BaseLLM, instance: str
) -> tuple[dict[str, Any], tuple[tuple[bool, str, Any], ...] | None]:
    """The identity, and what to watch for changes of it; None if a change could go unseen."""
    if getattr(llm, "track_previous_responses", False) is True:
        raise RequestNotCacheable(
            "llm.track_previous_responses", "an answer depends on what the provider remembers"
        )
    cls = type(llm)
    found: dict[str, Any] = {"class_name": cls.class_name(), "class": _name_of(cls)}
    watched: list[tuple[bool, str, Any]] = []
    opaque = unnamed = False
    visible = True
    for part in _parts(llm):
        try:
            plain = _plain(part.value)
        except _Opaque:
            opaque, unnamed = opaque or part.declared, True
            watched.append((part.in_dict, part.name, part.value))
            continue
        if plain not in (None, {}, []):
            found[part.name] = plain
        snapshot = _snapshot(part.value)
        visible = visible and snapshot is not _CHANGEABLE
        watched.append((part.in_dict, part.name, snapshot))
    model, known = _model(llm, found)
    if opaque or (not known and (unnamed or "<locals>" in cls.__qualname__)):
        found["instance"] = instance
    if not any(name in found for name in _URLS):
        found.update(_client_url(llm))
    return {**found, "model": model}, tuple(watched) if visible else None


class _Part(NamedTuple):
    """A value that an LLM holds: in its ``__dict__`` or among pydantic's private attributes;
    *declared*: in a field."""

    in_dict: bool
    declared: bool
    name: str
    value: Any


def _parts(llm: BaseLLM) -> Iterator[_Part]:
    """All that may change an answer."""
    cls = type(llm)
    fields = cls.model_fields
    for name, value in {**llm.__dict__, **(llm.__pydantic_extra__ or {})}.items():
        field = fields.get(name)
        hidden = field is not None and field.exclude and name not in _PROMPTS
        hidden = hidden or isinstance(
            getattr(cls, name, None), cached_property
        )  # worked out from the rest
        if (
            not hidden
            and not _is_ignored(name)
            and not (name in _PROMPTS and value in _DEFAULT_PROMPTS)
        ):
            yield _Part(True, not name.startswith("_"), name, value)
    for name, value in (llm.__pydantic_private__ or {}).items():
        if not _is_ignored(name):
            yield _Part(False, False, name, value)


@lru_cache(maxsize=4096)
def _is_ignored(name: str) -> bool:
    return (
        not _HOW_IT_IS_CALLED.isdisjoint((name, name.lstrip("_")))
        or _SECRET.search(name) is not None
    )


def _model(llm: BaseLLM, found: Mapping[str, Any]) -> tuple[str, bool]:
    """The name of the model, and whether it is more than that of the class."""
    for name in _MODELS:
        if isinstance(found.get(name), str) and found[name]:
            return found[name], True
    try:
        name = llm.metadata.model_name
    except Exception:  # noqa: BLE001  # integrations raise for models that they do not know
        name = ""
    return (name, True) if name and name != "unknown" else (type(llm).class_name(), False)


def _client_url(llm: BaseLLM) -> dict[str, str]:
    """The base URL that a client was given by the environment."""
    for name, client in (llm.__pydantic_private__ or {}).items():
        url = getattr(client, "base_url", None) if "client" in name else None
        if url is not None and type(url).__name__ in ("str", "URL"):
            return {"base_url": _USER_IN_URL.sub("", str(url))}
    return {}


def _name_of(thing: Any) -> str:
    """``module:qualname``; of a script, whose module is always ``__main__``, with its file's
    name."""
    module = thing.__module__
    if module == "__main__":
        module = f"__main__/{Path(getattr(sys.modules['__main__'], '__file__', None) or '').name}"
    return f"{module}:{thing.__qualname__}"


# -- Plain data

_ATOMS: Final = (str, int, float, bool, bytes, type(None))
_CHANGEABLE: Final = object()


def _plain(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """*value* as data for a key, without secrets; raises _Opaque."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return _USER_IN_URL.sub("", value) if "://" in value else value
    if isinstance(value, _ATOMS) or (isinstance(value, type) and issubclass(value, BaseModel)):
        return value
    if isinstance(value, (Path, AnyUrl)):
        return _USER_IN_URL.sub("", str(value))
    if depth == 0:
        raise _Opaque
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, FunctionType):
        return _function(value, depth - 1)
    if isinstance(value, SecretStr):
        return None
    named = _named_parts(value)
    return {
        name: _plain(item, depth - 1)
        for name, item in named.items()
        if not _SECRET.search(str(name)) and item is not None
    }


def _named_parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: value.__dict__.get(name) for name, field in fields.items() if not field.exclude
        }
    names = getattr(type(value), "__dataclass_fields__", None)
    if names is None:
        raise _Opaque
    return {name: getattr(value, name, None) for name in names}


def _function(function: FunctionType, depth: int) -> dict[str, Any]:
    """A function by its name, its code and the plain values that it closes over."""
    cells = function.__closure__ or ()
    try:
        closure = [_plain(cell.cell_contents, depth) for cell in cells]
    except ValueError:  # a cell that is still empty
        raise _Opaque from None
    defaults = _plain([*(function.__defaults__ or ()), function.__kwdefaults__ or {}], depth)
    return {
        "function": _name_of(function),
        "code": fingerprint(function.__code__),
        "values": [closure, defaults],
    }


def _snapshot(value: Any) -> Any:
    """*value* to compare with later: itself if it cannot change unseen, a copy of a container; else
    _CHANGEABLE."""
    if isinstance(value, (*_ATOMS, Enum, Path, type)) or (
        isinstance(value, FunctionType) and not value.__closure__
    ):
        return value
    return deepcopy(value) if _is_data(value) else _CHANGEABLE


def _is_data(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(item, _ATOMS) or _is_data(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, _ATOMS) or _is_data(item) for item in value)
    return isinstance(value, _ATOMS)
