"""Rows of LangChain's SQL caches as entries: the model that a row describes is made again, so that
its settings, and with them the key, are those of the model that will ask.

A model is made only of a chat class in LangChain's own list of classes, from plain data, and only
to read its settings. It has to describe itself as the row does.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd, loads
from langchain_core.load.mapping import SERIALIZABLE_MAPPING
from langchain_core.outputs import Generation

from langchain_llm_cache_mem.generations import CLASSES, dump, load
from langchain_llm_cache_mem.parsing import is_chat, model_of, read_prompt
from langchain_llm_cache_mem.requests import Requests
from llm_cache_mem import LLMCache, Request, RequestNotCacheable

__all__ = ["take_row"]

_FALLBACK: Final = "read through it with LLMCacheMem(fallback=...)"
_PARTIAL: Final = f"LangChain describes its model only in part: {_FALLBACK}"
_OBJECT: Final = f"an argument of its call is a class or an object: {_FALLBACK}"
_CHANGED: Final = f"its model has other settings here than in the row: {_FALLBACK}"
_UNREADABLE: Final = "an answer that LangChain cannot read"
_NO_VALUE: Final = "none"  # of a credential: no call is made
_DECODER: Final = json.JSONDecoder()


class _Unknown(Exception):
    """A row that can make no entry here; its text is the reason."""


def take_row(cache: LLMCache, prompt: str, llm_string: str, answers: Sequence[str]) -> str | None:
    """Store *answers* in *cache* for the call that LangChain looks up with *prompt* and
    *llm_string*, unless it has some. Returns None, or the reason why the row makes no entry."""
    try:
        request = _request(cache, prompt, llm_string)
        generations = _generations(answers)
    except _Unknown as exc:
        return str(exc)
    except RequestNotCacheable:
        return _OBJECT
    if request is not None and cache.engine.lookup(request, load) is None:
        encode = partial(dump, params=request.params)
        cache.engine.writer.take_over(request, generations, encode)
    return None


def _request(cache: LLMCache, prompt: str, llm_string: str) -> Request | None:
    """The request, as it is where LLMCacheMem sees the model that asks; None, counted as skipped,
    if its settings have no wire form."""
    described = model_of(llm_string)
    call = described.arguments(described.resolve())
    if "_class" not in described.settings or not is_chat(prompt):
        raise _Unknown(_PARTIAL)
    model = _model(llm_string[: _DECODER.raw_decode(llm_string)[1]])
    requests = Requests(cache.engine)
    params = requests.params(model, type(model), call.pop("stop", None), call)
    return None if params is None else requests.request_of(read_prompt(prompt, params), params)


@lru_cache(maxsize=64)
def _model(constructor: str) -> BaseChatModel:
    """The model that *constructor* describes, as JSON. Raises _Unknown."""
    described = _settings(constructor)
    cls = _class(tuple(described["_class"].split(".")))
    given = {name: value for name, value in described.items() if name != "_class"}
    credentials = json.loads(constructor)["kwargs"].keys() - given.keys()
    arguments: dict[str, Any] = {**given, **dict.fromkeys(credentials, _NO_VALUE)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = cls(**arguments)
            again = _settings(json.dumps(dumpd(model)))
    except Exception:  # noqa: BLE001  # each class has checks of its own; nothing is quoted
        raise _Unknown(_CHANGED) from None
    if again != described:
        raise _Unknown(_CHANGED)
    return model


def _settings(constructor: str) -> Mapping[str, Any]:
    """The settings in *constructor* without credentials."""
    return model_of(f"{constructor}---[]").settings


def _class(name: tuple[str, ...]) -> type[BaseChatModel]:
    *module, last = SERIALIZABLE_MAPPING.get(name, ("",))
    if not module or not module[0].startswith("langchain_"):
        raise _Unknown(_PARTIAL)
    try:
        cls = getattr(import_module(".".join(module)), last)
    except (ImportError, AttributeError):
        raise _Unknown(f"its model needs {module[0]}, which is not installed here") from None
    if not (issubclass(cls, BaseChatModel) and tuple(cls.lc_id()) == name):
        raise _Unknown(_PARTIAL)
    found: type[BaseChatModel] = cls
    return found


def _generations(answers: Sequence[str]) -> list[Generation]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # loads says that it is new
            found: list[Any] = [
                loads(answer, allowed_objects=CLASSES, secrets_from_env=False) for answer in answers
            ]
    except Exception:  # noqa: BLE001  # foreign data, of which nothing is quoted
        raise _Unknown(_UNREADABLE) from None
    if not all(isinstance(each, Generation) for each in found):
        raise _Unknown(_UNREADABLE)
    return found
