"""Choices: n answers to one request, made from those that are stored for another n."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llm_cache_mem.engine.calls import PLAIN, Codec
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.engine.reader import Other
from llm_cache_mem.keys.request import Request
from llm_cache_mem.options import current

__all__ = ["NO_CHOICES", "Choices", "choices_for"]

_MOST: Final = 16
"""Up to which n stored answers are looked for: each is a key to make."""


class Choices:
    """What is stored for a request of some n that is not stored itself.

    *other* is a request with as many choices or more, and how to take the first n of its answer.
    Without one, *held* is an answer with fewer, and *missing* how many are to be bought.
    """

    def __init__(self, other: Other | None = None, held: Any = None, missing: int = 0) -> None:
        self.other = other
        self._held = held
        self._missing = missing
        self._bought: Any = None

    def __bool__(self) -> bool:
        return self.other is not None or self._missing > 0

    def params(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The params of the call for those that are missing."""
        return {**params, "n": self._missing} if self._missing else params

    def join(self, response: Any) -> Any:
        """What is held and the choices of *response*, as one answer."""
        self._bought = response
        return _joined(self._held, response) if self._missing else response

    @property
    def codec(self) -> Codec:
        """How an answer is stored: what was bought of it is what was paid for."""
        return Codec(report=self._report) if self._missing else PLAIN

    def _report(self, joined: Any) -> Any:
        return self._bought


NO_CHOICES: Final = Choices()


def choices_for(
    engine: Engine,
    request: Request,
    fn: Callable[..., Any],
    messages: Any,
    params: Mapping[str, Any],
) -> Choices:
    """What is stored for *request*, the call of *fn* with these arguments, under another n."""
    wanted = params.get("n")
    if type(wanted) is not int or wanted < 2 or engine.settings.current_mode() != "on":
        return NO_CHOICES
    if params.get("seed") is not None:  # the same seed draws the same choices
        return NO_CHOICES
    if current().draw is not None or engine.reader.recheck(request) is not None:
        return NO_CHOICES
    rest = {name: value for name, value in params.items() if name != "n"}
    counts = (*range(wanted + 1, _MOST + 1), *range(min(wanted, _MOST) - 1, 0, -1))
    requests = [  # an API that has n takes one for 1
        (n, found)
        for n in counts
        if (found := engine.request_of(fn, messages, rest if n == 1 else {**rest, "n": n}))
    ]
    stored = engine.backend.get_many([other.key for _, other in requests])
    for n, other in requests:
        entry = stored.get(other.key)
        hit = None if entry is None else engine.reader.read(other, entry)
        if hit is None or len(_choices(hit.value)) != n:
            continue
        if n > wanted:
            return Choices(Other(other, lambda value: _first(value, wanted)))
        return Choices(held=hit.value, missing=wanted - n)
    return NO_CHOICES


def _choices(answer: Any) -> list[Any]:
    """The choices of an answer in the form of Chat Completions; none for any other."""
    found = answer.get("choices") if isinstance(answer, dict) else getattr(answer, "choices", None)
    return found if isinstance(found, list) else []


def _first(answer: Any, n: int) -> Any:
    """*answer* with its first *n* choices alone; None if it has fewer. Its usage is that of the
    call."""
    choices = _choices(answer)
    return _with_fields(answer, choices=choices[:n]) if len(choices) >= n else None


def _joined(held: Any, response: Any) -> Any:
    """*response* with the choices of *held* in front of its own, and the tokens of both."""
    own = _choices(response)
    if not own:
        return response
    numbered = [
        _with_fields(choice, index=index) for index, choice in enumerate([*_choices(held), *own])
    ]
    joined = _with_fields(response, choices=numbered)
    usage, before = _field(response, "usage"), _field(held, "usage")
    if usage is None or before is None:
        return joined
    made = _field(before, "completion_tokens") or 0
    counts = {
        name: (_field(usage, name) or 0) + made for name in ("completion_tokens", "total_tokens")
    }
    return _with_fields(joined, usage=_with_fields(usage, **counts))


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def _with_fields(holder: Any, **fields: Any) -> Any:
    """A copy of *holder*, a dict or a pydantic model, with other values for *fields*."""
    return {**holder, **fields} if isinstance(holder, dict) else holder.model_copy(update=fields)
