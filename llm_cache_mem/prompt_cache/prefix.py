"""Prefix: the common beginning of many calls, with breakpoints, so that the request that warms it
and the calls send identical parts."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, Final

from llm_cache_mem.keys.functions import SYSTEM_ROLES
from llm_cache_mem.keys.wire_form import unwrap
from llm_cache_mem.prompt_cache.fingerprint import MARKERS, Fingerprint, fingerprint
from llm_cache_mem.prompt_cache.rules import API, MAX_BREAKPOINTS, Rules, rules_for

__all__ = ["Prefix", "make_prefix"]

_FILLER: Final = "."  # the question of a request that only warms


class Prefix:
    """The common beginning of many requests, as the provider gets it. Immutable by convention; make
    one with ``Warmer.prefix``.

    ``request("Where is my parcel?", max_tokens=300)`` returns the keyword arguments of a call that
    begins with it.
    """

    def __init__(
        self, api: API, model: str, parts: Mapping[str, Any], ttl: str | None, name: str
    ) -> None:
        self.api = api
        self.model = model
        self.rules = _rules(api, model)
        self.lifetime = self.rules.lifetime(ttl)
        """Seconds for which the provider keeps it after its last use."""
        self.ttl = ttl or self.rules.default_ttl
        self.name = name
        self._parts = dict(parts)
        self._turns = "input" if api == "responses" else "messages"
        self.fingerprint: Fingerprint = fingerprint({"model": model, **self._parts})

    @property
    def digest(self) -> str:
        """32 hex digits for the model and all of the prefix."""
        whole = self.fingerprint
        return whole._replace(stable=len(whole.parts)).digest

    @property
    def breakpoints(self) -> int:
        """The number of breakpoints in it."""
        return _marks(self._parts)

    def request(self, messages: Any = (), /, **params: Any) -> dict[str, Any]:
        """The keyword arguments of a call that begins with this prefix, a new object each time.

        Args:
            messages: The rest of the conversation, a text or a list of messages. A user message
                after a prefix that ends with one is appended to it, after the breakpoint.
            **params: Other parameters of the call.

        Raises:
            TypeError: *params* would replace a part of the prefix.
        """
        taken = sorted(params.keys() & {*self._parts, "model", self._turns})
        if taken:
            raise TypeError(
                f"request() got {', '.join(taken)}, which the prefix sets; make another prefix for"
                " another value"
            )
        parts = deepcopy(self._parts)
        turns: list[Any] = (
            [{"role": "user", "content": messages}]
            if isinstance(messages, str)
            else [unwrap(turn) for turn in messages]
        )
        return {
            "model": self.model,
            **parts,
            self._turns: _joined(parts.get(self._turns, []), turns),
            **params,
        }

    def warming(self, limit: int) -> dict[str, Any]:
        """The smallest request that makes the provider process all of the prefix, with at most
        *limit* tokens of output."""
        if self.api == "messages":
            ends_with_user = (
                bool(self._parts.get("messages"))
                and self._parts["messages"][-1].get("role") == "user"
            )
            thinking = self._parts.get("thinking")
            if (
                isinstance(thinking, dict) and limit
            ):  # Anthropic requires room for an answer besides; it refuses 0 anyway
                limit += thinking.get("budget_tokens") or 0
            return (
                self.request((), max_tokens=limit)
                if ends_with_user
                else self.request(_FILLER, max_tokens=limit)
            )
        filler = () if any(_is_turn(turn) for turn in self._parts.get(self._turns, ())) else _FILLER
        if self.api == "chat":
            return self.request(filler, max_completion_tokens=limit)
        request = self.request(filler, max_output_tokens=limit, store=False)
        if self.rules.prewarm:
            del request["max_output_tokens"]
            request["prompt_cache_options"] = {
                **request.get("prompt_cache_options", {}),
                "prewarm": True,
            }
        return request

    def __repr__(self) -> str:
        return (
            f"Prefix({self.name!r}, model={self.model!r}, ttl={self.ttl!r},"
            f" digest={self.digest[:12]!r})"
        )


def make_prefix(
    api: API,
    *,
    model: str,
    system: Any = None,
    tools: Iterable[Any] | None = None,
    messages: Iterable[Any] | None = None,
    documents: Iterable[Any] | None = None,
    ttl: str | None = None,
    name: str | None = None,
    **params: Any,
) -> Prefix:
    """A prefix for *api* of copied parts, with breakpoints. TypeError or ValueError for what the
    provider would refuse."""
    if not isinstance(model, str) or not model:
        raise TypeError("model must be the name of a model")
    for part, given in (("tools", tools), ("messages", messages), ("documents", documents)):
        if given is not None and (
            isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable)
        ):
            raise TypeError(f"{part} must be a list of them, not a single {type(given).__name__}")
    if not (
        system is None
        or isinstance(system, str)
        or (isinstance(system, Iterable) and not isinstance(system, bytes | Mapping))
    ):
        raise TypeError(f"system must be a str or a list of blocks, not {type(system).__name__}")
    reserved = sorted(
        params.keys() & {"max_tokens", "max_completion_tokens", "max_output_tokens", "stream", "n"}
    )
    if reserved:
        raise TypeError(
            f"{', '.join(reserved)} is not part of a prefix: the warmer sets the smallest one"
        )
    rules = _rules(api, model)
    rules.lifetime(ttl)
    parts: dict[str, Any] = {key: _copy(value) for key, value in params.items()}
    first = parts.pop("input", ()) if api == "responses" else ()
    turns = (
        [{"role": "user", "content": first}]
        if isinstance(first, str)
        else [*first, *(_copy(turn) for turn in messages or ())]
    )
    blocks = [_document(document, api) for document in documents or ()]
    if blocks:
        turns = _joined([{"role": "user", "content": blocks}], turns)
    if tools:
        parts["tools"] = [_copy(tool) for tool in tools]
    if api == "messages":
        if system:
            parts["system"] = _blocks(system)
    else:
        turns = [*_system_turn(system, api), *turns]
    if turns:
        parts["input" if api == "responses" else "messages"] = turns
    if not any(
        parts.get(section) for section in ("tools", "system", "instructions", "messages", "input")
    ):
        raise ValueError("there is nothing to warm: give system, tools, messages or documents")
    _mark(parts, api, rules, ttl)
    return Prefix(api, model, parts, ttl, name or model)


def _rules(api: API, model: str) -> Rules:
    return rules_for(model, "anthropic" if api == "messages" else "openai")


def _copy(value: Any) -> Any:
    """A copy of *value* as plain JSON, because the caller may change it later."""
    plain = unwrap(value)
    if isinstance(plain, dict):
        return {key: _copy(item) for key, item in plain.items()}
    return [_copy(item) for item in plain] if isinstance(plain, list) else plain


def _blocks(content: Any, kind: str = "text") -> list[Any]:
    return (
        [{"type": kind, "text": content}]
        if isinstance(content, str)
        else [_copy(block) for block in content]
    )


def _document(document: Any, api: API) -> Any:
    return (
        _blocks(document, "input_text" if api == "responses" else "text")[0]
        if isinstance(document, str)
        else _copy(document)
    )


def _system_turn(system: Any, api: API) -> list[Any]:
    if not system:
        return []
    return [{"role": "system", "content": system if isinstance(system, str) else _copy(system)}]


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") not in SYSTEM_ROLES


def _joined(first: list[Any], then: list[Any]) -> list[Any]:
    """*first* followed by *then*; two user messages in a row become one, as at the providers."""
    if (
        first
        and then
        and first[-1].get("role") == "user"
        and isinstance(then[0], dict)
        and then[0].get("role") == "user"
    ):
        content = first[-1]["content"]
        if isinstance(content, list):
            kind = next(
                (block["type"] for block in content if block.get("type") in ("text", "input_text")),
                "text",
            )
            merged = {**first[-1], "content": [*content, *_blocks(then[0]["content"], kind)]}
            return [*first[:-1], merged, *then[1:]]
    return [*first, *then]


# Breakpoints


def _marks(value: Any) -> int:
    if isinstance(value, dict):
        return sum(1 if key in MARKERS and item else _marks(item) for key, item in value.items())
    return sum(map(_marks, value)) if isinstance(value, list) else 0


def _mark(parts: dict[str, Any], api: API, rules: Rules, ttl: str | None) -> None:
    """Set a breakpoint at the end of each section that has none, the last section first, up to the
    limit."""
    if not rules.explicit:
        if ttl is not None:
            parts["prompt_cache_retention"] = ttl
        return
    there = _marks(parts)
    if there > MAX_BREAKPOINTS:
        raise ValueError(
            f"a request may set {MAX_BREAKPOINTS} breakpoints, and this one sets {there}"
        )
    if api != "messages":
        if ttl is not None:
            parts["prompt_cache_options"] = {**parts.get("prompt_cache_options", {}), "ttl": ttl}
        if not there:
            turns = parts.get("input" if api == "responses" else "messages", [])
            _mark_openai([turn for turn in turns if not _is_turn(turn)], api)
            _mark_openai(turns, api)
        return
    marker = {"type": "ephemeral"} if ttl is None else {"type": "ephemeral", "ttl": ttl}
    for section in ("messages", "system", "tools"):
        content = parts.get(section)
        if content and there < MAX_BREAKPOINTS and not _marks(content):
            there += _mark_last(content, section, marker)
    _check_order(parts)


def _mark_last(content: list[Any], section: str, marker: dict[str, str]) -> int:
    """Mark the last block of *content* that can be marked; the number of marks."""
    if section == "messages":
        last = content[-1]
        last["content"] = _blocks(last["content"])
        content = last["content"]
    for block in reversed(content):
        empty = block.get("type") == "text" and not block.get("text")
        if (
            block.get("type") not in ("thinking", "redacted_thinking") and not empty
        ):  # Anthropic refuses a marker on these
            block["cache_control"] = dict(marker)
            return 1
    return 0


def _mark_openai(turns: list[Any], api: API) -> None:
    kind = "input_text" if api == "responses" else "text"
    for turn in reversed(turns):
        if (
            isinstance(turn, dict)
            and turn.get("role") in (*SYSTEM_ROLES, "user")
            and turn.get("content")
        ):
            turn["content"] = _blocks(turn["content"], kind)
            turn["content"][-1]["prompt_cache_breakpoint"] = {"mode": "explicit"}
            return


def _check_order(parts: Mapping[str, Any]) -> None:
    """Raise ValueError unless breakpoints of an hour come before those of five minutes."""
    lifetimes = list(
        _lifetimes([parts.get(section) for section in ("tools", "system", "messages")])
    )
    if "1h" in lifetimes[lifetimes.index("5m") :] if "5m" in lifetimes else False:
        raise ValueError(
            "a breakpoint with ttl '1h' comes after one with '5m': Anthropic wants the longer ones"
            " first"
        )


def _lifetimes(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        marker = value.get("cache_control")
        yield from (found for item in value.values() for found in _lifetimes(item))
        if marker:
            yield str(marker.get("ttl", "5m"))
    elif isinstance(value, list):
        yield from (found for item in value for found in _lifetimes(item))
