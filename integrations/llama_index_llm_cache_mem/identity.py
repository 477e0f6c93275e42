"""Which model an LLM object is: its settings as parameters of a request, without credentials and
without what only decides how a call is made."""

import functools
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.generic_utils import (
    messages_to_prompt as generic_messages_to_prompt,
)
from llama_index.core.llms.llm import default_completion_to_prompt
from llama_index.core.tools import BaseTool

from llama_index_llm_cache_mem.hugging_face import derived_attributes
from llm_cache_mem._util.modules import module_name
from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.errors import StatefulRequest
from llm_cache_mem.keys.callables import fingerprint, globals_read
from llm_cache_mem.keys.chat_form import overlaid
from llm_cache_mem.keys.class_names import local_digest
from llm_cache_mem.keys.clients import endpoint_of
from llm_cache_mem.keys.identity import Identity, Opaque, describe, kind_of

__all__ = ["Identity", "identity", "tool_to_dict"]

_AROUND_A_CALL: Final = frozenset({"output_parser", "pydantic_program_mode"})
_OPENAI_LIKE: Final = "llama_index.llms.openai_like.base:OpenAILike"
_OLLAMA: Final = "llama_index.llms.ollama.base:Ollama"
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
_MAX_DEPTH: Final = 8


def identity(llm: BaseLLM) -> Identity:
    """The settings of *llm* as one flat mapping, not to be changed; ``model`` names the model.

    Raises RequestNotCacheable where the provider remembers earlier answers.
    """
    state = _states.get(id(llm))
    if state is None or state.llm() is not llm:
        return _remember(llm, had_own_window=False)
    if state.seen is not None and _is_unchanged(llm, state.seen):
        return state.identity
    return _remember(llm, had_own_window=state.had_own_window)


# -- Remembering

_ATOMS: Final = (str, int, float, bool, bytes, type(None))
_COMPARABLE: Final = (*_ATOMS, Enum, Path, dict, list, tuple)
_ANY: Final = object()  # a value that is no part of the identity
_CHANGEABLE: Final = object()  # a value that may change unseen
_NEW: Final = object()


@without_content
class _State(NamedTuple):
    """What is remembered of one LLM object. *seen*: the values that *identity* was made from; None
    if one of them may change unseen. *had_own_window*: see ``_sends_context_window``."""

    llm: "weakref.ref[BaseLLM]"
    identity: Identity
    seen: tuple[Mapping[str, Any], ...] | None
    had_own_window: bool


_states: dict[int, _State] = {}


def _holders(llm: BaseLLM) -> tuple[Mapping[str, Any], ...]:
    """The state of *llm*: fields, extra fields, and private attributes."""
    return llm.__dict__, llm.__pydantic_extra__ or {}, llm.__pydantic_private__ or {}


def _is_unchanged(llm: BaseLLM, seen: tuple[Mapping[str, Any], ...]) -> bool:
    for holder, before in zip(_holders(llm), seen, strict=True):
        if len(holder) != len(before):
            return False
        for name, value in holder.items():
            was = before.get(name, _NEW)
            if was is _ANY or value is was:
                continue
            if type(value) is not type(was) or not isinstance(value, _COMPARABLE):
                return False
            if value != was or repr(value) != repr(was):  # 1 and True are equal
                return False
    return True


def _remember(llm: BaseLLM, *, had_own_window: bool) -> Identity:
    key = id(llm)
    had_own_window = had_own_window or getattr(llm, "context_window", None) == -1
    parts = dict(_parts(llm))
    found = _describe(llm, parts, had_own_window)
    seen = tuple(
        {name: _snapshot(name, value) if name in parts else _ANY for name, value in holder.items()}
        for holder in _holders(llm)
    )
    changeable = bool(local_digest(type(llm))) or any(
        value is _CHANGEABLE for holder in seen for value in holder.values()
    )
    reference = weakref.ref(llm, lambda gone: _forget(key, gone))
    _states[key] = _State(reference, found, None if changeable else seen, had_own_window)
    return found


def _forget(key: int, gone: Any) -> None:
    state = _states.get(key)
    if state is not None and state.llm is gone:  # an object made since may have the same id
        _states.pop(key, None)


def _snapshot(name: str, value: Any) -> Any:
    """*value* to compare with later: a copy of a container, _CHANGEABLE where the identity is made
    of what an object holds, else the object itself."""
    if isinstance(value, _ATOMS):
        return _ANY if kind_of(name, value) == "credential" else value
    if isinstance(value, (dict, list, tuple)):
        return deepcopy(value) if _is_data(value) else _CHANGEABLE
    has_fields = hasattr(value, "__pydantic_fields__") or hasattr(value, "__dataclass_fields__")
    if isinstance(value, FunctionType):
        return _CHANGEABLE if value.__closure__ or globals_read(value) else value
    is_object = has_fields and not isinstance(value, type)
    return _CHANGEABLE if is_object or isinstance(value, partial) else value


def _is_data(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(item, _ATOMS) or _is_data(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, _ATOMS) or _is_data(item) for item in value)
    return isinstance(value, _ATOMS)


# -- Describing


def _parts(llm: BaseLLM) -> Iterator[tuple[str, Any]]:
    """The name and value of all state that may change an answer."""
    cls = type(llm)
    outside = _AROUND_A_CALL | {"callback_manager"}
    if _is_a(cls, _OPENAI_LIKE):
        outside |= {"tokenizer"}  # which only counts tokens there
    for holder in _holders(llm):
        for name, value in holder.items():
            if name in _PROMPTS:
                counts = value not in _DEFAULT_PROMPTS
            else:
                counts = not isinstance(getattr(cls, name, None), cached_property)
            if counts and name not in outside:
                yield name, value


def _describe(llm: BaseLLM, parts: dict[str, Any], had_own_window: bool) -> Identity:
    if getattr(llm, "track_previous_responses", False) is True:
        raise StatefulRequest(
            "llm.track_previous_responses", "an answer depends on what the provider remembers"
        )
    cls = type(llm)
    clients = [value for name, value in parts.items() if _is_client(name, value, cls)]
    left_out = derived_attributes(llm)
    if not _sends_context_window(cls, had_own_window):
        left_out |= {"context_window"}
    settings = {
        name: _inner_llms(value)
        for name, value in parts.items()
        if name not in left_out and not any(value is client for client in clients)
    }
    found, opaque = _flat(settings, partial(_stand_in, llm, depth=_MAX_DEPTH))
    if not any(found.get(name) for name in _URLS):
        found.update(_base_url(clients))
    if not cls.__module__.startswith("llama_index"):  # whose clients are made of the settings
        for client in clients:
            said = describe([("client", client)]).settings
            found.update({f"client.{name}": said[name] for name in said if name != "base_url"})
    model, known = _model(llm, found)
    if not known and "<locals>" in cls.__qualname__:  # its name may be that of others
        opaque = {**opaque, "model": f"class {cls.__name__} made in a function"}
    if "system_prompt" in found:  # as the APIs call it that do not take it as a message
        found["system"] = found.pop("system_prompt")
    names = {"class_name": cls.class_name(), "class": _name_of(cls)}
    if made_here := local_digest(cls):
        names["class"] += f" {made_here}"
    return Identity({**names, **found, "model": model}, opaque)


def _is_a(cls: type, name: str) -> bool:
    return any(f"{base.__module__}:{base.__qualname__}" == name for base in cls.__mro__)


def _sends_context_window(cls: type, had_own_window: bool) -> bool:
    """Whether the model is told the context window: by Ollama, where it was set. Where it was not,
    the first call sets it to that of the model."""
    return _is_a(cls, _OLLAMA) and not had_own_window


def _is_client(name: str, value: Any, cls: type) -> bool:
    """Whether *value* only sends requests: what an integration of LlamaIndex's calls a client; in
    other classes, such an object whose class is called so, which has a URL, or which is from a
    package other than that of the LLM."""
    if "client" not in name.lower() or value is None or isinstance(value, _COMPARABLE):
        return False
    package, own = (each.__module__.partition(".")[0] for each in (type(value), cls))
    return (
        own == "llama_index"
        or "client" in type(value).__name__.lower()
        or endpoint_of(value) is not None
        or package not in ("builtins", "__main__", own)
    )


def _base_url(clients: Iterable[Any]) -> dict[str, str]:
    """The URL that a client was given by the environment."""
    for client in clients:
        url = endpoint_of(client)
        if url is not None:
            return {"base_url": url}
    return {}


def _inner_llms(value: Any) -> Any:
    """*value* with the settings of an LLM in its place."""
    if isinstance(value, BaseLLM):
        found = identity(value)
        return value if found.opaque else found.settings
    if isinstance(value, (list, tuple)) and any(isinstance(item, BaseLLM) for item in value):
        return [_inner_llms(item) for item in value]
    return value


def _flat(settings: dict[str, Any], unknown: Any) -> Identity:
    """What of *settings* is part of a request; additional arguments of the API stand where the API
    has them."""
    extra = settings.pop("additional_kwargs", None)
    if not isinstance(extra, Mapping):
        settings, extra = ({**settings, "additional_kwargs": extra} if extra else settings), {}
    found, opaque = describe(settings.items(), transport=_AROUND_A_CALL, unknown=unknown)
    more, more_opaque = describe(extra.items(), unknown=unknown)
    body = more.pop("extra_body", None) or {}
    params = overlaid(overlaid(_set(found), _set(more)), body)
    return Identity(params, {**opaque, **more_opaque})


def _set(params: Mapping[str, Any]) -> dict[str, Any]:
    """The *params* that say something: an optional field that a later release adds is no change."""
    return {name: value for name, value in params.items() if value not in (None, {}, [])}


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


def _name_of(thing: Any) -> str:
    """``module:qualname``; of a script, whose module is always ``__main__``, with its file's
    name."""
    module = module_name(thing)
    if module == "__main__":
        module = f"__main__/{Path(getattr(sys.modules['__main__'], '__file__', None) or '').name}"
    return f"{module}:{thing.__qualname__}"


# -- Objects without a wire form


def _stand_in(llm: BaseLLM, value: Any, *, depth: int) -> Any:
    """Plain data for *value*, which has no wire form but is as much as its code and what that
    holds. Raises Opaque."""
    if depth == 0:
        raise Opaque(value)
    unknown = partial(_stand_in, llm, depth=depth - 1)
    if isinstance(value, FunctionType):
        return _function(value, unknown)
    if isinstance(value, MethodType):
        return _method(llm, value)
    if isinstance(value, BaseTool):
        return tool_to_dict(value)
    if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, functools.partial):
        held = _values([value.args, value.keywords], unknown)
        return {"partial": _stand_in(llm, value.func, depth=depth - 1), "values": held}
    if isinstance(value, type):
        return _name_of(value)
    if isinstance(value, BaseException):  # what a test double is to raise
        return None
    if f"{type(value).__module__}.{type(value).__name__}" == "torch.dtype":
        return str(value)
    raise Opaque(value)


def _function(function: FunctionType, unknown: Any) -> dict[str, Any]:
    """A function by its name, its code and the plain values outside of it that it reads."""
    try:
        closure = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a cell that is still empty
        raise Opaque(function) from None
    held: list[Any] = [closure, [*(function.__defaults__ or ()), function.__kwdefaults__ or {}]]
    if read := globals_read(function):
        held.append(read)
    return {
        "function": _name_of(function),
        "code": fingerprint(function.__code__),
        "values": _values(held, unknown),
    }


def _method(llm: BaseLLM, method: MethodType) -> dict[str, Any]:
    """A method of *llm* itself, which holds no more than *llm* does, or of a class."""
    holder = method.__self__
    if isinstance(holder, type) or getattr(holder, "__dict__", None) is llm.__dict__:
        return {"method": _name_of(method.__func__)}
    raise Opaque(method)


def _values(held: list[Any], unknown: Any) -> Any:
    found, opaque = describe([("values", held)], unknown=unknown)
    if opaque:
        raise Opaque(held)
    return found["values"]


def tool_to_dict(tool: BaseTool) -> dict[str, Any]:
    """The description of *tool* for a model, as the Chat Completions API has it."""
    metadata = tool.metadata
    return {
        "type": "function",
        "function": {
            "name": metadata.name,
            "description": metadata.description,
            "parameters": metadata.get_parameters_dict(),
        },
    }
