"""Remedies: key functions that would turn misses into hits, found field by field."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from llm_cache_mem.diagnostics.fields import (
    PATTERNS,
    Fields,
    all_fields,
    contains,
    pattern_of,
    repeats,
)
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.call_ids import stable_ids
from llm_cache_mem.keys.folding import folding, with_last_text_folded
from llm_cache_mem.keys.functions import (
    SYSTEM_PARAMS,
    KeyFunction,
    compose,
    ignoring,
    masking,
)

__all__ = ["DECISIVE", "Remedy", "find_remedies", "hits_with"]

_WORDS = (
    "model messages input contents prompt texts documents tools functions tool_choice tool_config"
    " toolConfig response_format output_config format previous_response_id cachedContent"
    " temperature top_p top_k max_tokens max_completion_tokens max_output_tokens stop"
    " stop_sequences seed n reasoning reasoning_effort thinking generationConfig generation_config"
    " stream base_url url deployment engine http.base_url http.path http.query http.source"
)
DECISIVE = frozenset(_WORDS.split()).union(SYSTEM_PARAMS)
"""Params that decide the answer: differences in them are shown, but no remedy leaves them out."""
_WHOLE: Mapping[str, tuple[str, KeyFunction, KeyFunction]] = {
    "stable_ids": ("ids of tool calls", stable_ids, stable_ids),
    "folding": (
        "case, white space and the end mark of the last question",
        folding,
        lambda messages, **params: {"messages": with_last_text_folded(messages), **params},
    ),
}
"""Key functions that take no names, by theirs: what they leave out, the function, and what it makes
of a request."""
_STEPS = 6  # the most fields and patterns in a remedy
_PAIRED, _PAIRED_CHARACTERS = 1000, 2_000_000  # requests, and text in them, to try pairs in


class Remedy(NamedTuple):
    """*why*: what differs; *key_fn*: this and all remedies before it, as code; *hits*: how many
    there would be with it, in all."""

    why: str
    key_fn: str
    hits: int


def find_remedies(requests: list[Fields], hits: int, keep: frozenset[str]) -> Iterator[Remedy]:
    """The remedy that wins most hits beyond *hits*, then the one that wins most in addition, and so
    on; none leaves out a field of *keep*."""
    plan, run = _Plan(), _Run(requests)
    for _ in range(_STEPS):
        best = _best(_steps(run, plan, keep), _hits(run, plan)) or _best_pair(
            run.first(_paired(requests)), plan, keep
        )
        if best is None:
            return
        plan = best.plan
        won = hits_with(requests, plan.key_fn())
        if won <= hits:
            return
        hits = won
        yield Remedy(best.why, plan.code(), hits)


def hits_with(requests: list[Fields], key_fn: Callable[..., Any] | None) -> int:
    """How many of the requests have the key of an earlier one, by *key_fn* (None: by default).
    Requests without a key never hit."""
    known: set[str] = set()
    hits = 0
    for one in requests:
        params = dict(one.request)
        messages = params.pop("messages", None)
        try:
            key = (
                digest.digest(messages, params)
                if key_fn is None
                else digest.digest_of(key_fn(messages, **params))
            )
        except Exception:  # noqa: BLE001  # the cache does not store such a request either
            key = None
        hits += key in known
        if key is not None:
            known.add(key)
    return hits


class _Plan(NamedTuple):
    """What a key function leaves out: params and fields of messages by name, matches of patterns in
    the order of PATTERNS, and what functions of _WHOLE do."""

    ignored: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()

    def masking(self, name: str) -> "_Plan":
        return self._replace(
            masked=tuple(known for known in PATTERNS if known == name or known in self.masked)
        )

    def key_fn(self) -> KeyFunction:
        chain = [_WHOLE[name][1] for name in self.whole]
        mask = masking(pattern_of(self.masked)) if self.masked else None
        if self.ignored:
            mask = ignoring(*self.ignored, **({"then": mask} if mask else {}))
        return compose(*chain, *([mask] if mask else []))

    def code(self) -> str:
        code = f'masking(r"{pattern_of(self.masked)}")' if self.masked else ""
        if self.ignored:  # as JSON, which is valid Python too
            names = [json.dumps(name, ensure_ascii=False) for name in self.ignored]
            code = f"ignoring({', '.join([*names, *([f'then={code}'] if code else [])])})"
        chain = [*self.whole, *([code] if code else [])]
        return chain[0] if len(chain) == 1 else f"compose({', '.join(chain)})"


class _Step(NamedTuple):
    """One more field or pattern, and the hits there would be with it, by hashes."""

    hits: int
    why: str
    plan: _Plan


class _Run:
    """The requests of a run, and what functions of _WHOLE make of them."""

    def __init__(self, requests: list[Fields]) -> None:
        self._made: dict[tuple[str, ...], list[Fields]] = {(): requests}

    def first(self, number: int) -> "_Run":
        """The same for this *number* of requests."""
        other = _Run([])
        other._made = {whole: made[:number] for whole, made in self._made.items()}
        return other

    def after(self, whole: tuple[str, ...]) -> list[Fields]:
        """The requests after the functions of these names."""
        made = self._made.get(whole)
        if made is None:
            function = _WHOLE[whole[-1]][2]
            made = [_after(function, one) for one in self.after(whole[:-1])]
            self._made[whole] = made
        return made


def _after(function: KeyFunction, one: Fields) -> Fields:
    """*one* after *function*; itself where that changes nothing, or does not take it."""
    params = dict(one.request)
    if "messages" not in params:
        return one
    try:
        made = function(params.pop("messages"), **params)
        return one if made == one.request else Fields(made, frozenset())
    except Exception:  # noqa: BLE001  # such a request goes uncached with the function
        return one


def _best(steps: Iterable[_Step], now: int) -> _Step | None:
    return max(
        (step for step in steps if step.hits > now), default=None, key=lambda step: step.hits
    )


def _paired(requests: list[Fields]) -> int:
    """How many of the first requests there is time to try pairs for."""
    ends = accumulate(sum(len(text) for _, text in one.texts) for one in requests[:_PAIRED])
    return sum(1 for end in ends if end <= _PAIRED_CHARACTERS)


def _best_pair(run: _Run, plan: _Plan, keep: frozenset[str]) -> _Step | None:
    """The best pair of fields or patterns that hide each other's cost, such as a time and an id
    that are both new in every request."""
    pairs = (
        second._replace(why=f"{first.why} and {second.why}")
        for first in _steps(run, plan, keep)
        for second in _steps(run, first.plan, keep)
    )
    return _best(pairs, _hits(run, plan))


def _hits(run: _Run, plan: _Plan) -> int:
    return repeats(_Left(one, plan).total for one in run.after(plan.whole))


def _steps(run: _Run, plan: _Plan, keep: frozenset[str]) -> Iterator[_Step]:
    yield from _whole_step(run, plan, "stable_ids")  # of two that win as much the first is taken
    requests = run.after(plan.whole)
    left = [_Left(one, plan) for one in requests]
    tops = {name for one in requests for name in one.request}
    for field in all_fields(requests):
        if (
            field
            and field not in plan.ignored
            and field not in keep
            and (field in tops or _is_of_messages(field))
        ):
            hits = repeats(one.total - one.below(field) for one in left)
            yield _Step(hits, field, plan._replace(ignored=(*plan.ignored, field)))
    for name in PATTERNS:
        if name not in plan.masked and any(one.masked((name,)) for one in requests):
            yield _Step(_hits(run, masked := plan.masking(name)), name, masked)
    yield from _whole_step(run, plan, "folding")


def _whole_step(run: _Run, plan: _Plan, name: str) -> Iterator[_Step]:
    if name not in plan.whole:
        whole = tuple(one for one in _WHOLE if one == name or one in plan.whole)
        further = plan._replace(whole=whole)
        yield _Step(_hits(run, further), _WHOLE[name][0], further)


def _is_of_messages(field: str) -> bool:
    """Whether ignoring() takes *field* as one of messages."""
    return field.startswith("messages[].") and not set(field.removeprefix("messages[].")) & set(
        ".["
    )


class _Left:
    """The fields of a request that a plan leaves."""

    def __init__(self, fields: Fields, plan: _Plan) -> None:
        self._fields = fields
        changes = fields.masked(plan.masked).items() if plan.masked else ()
        self._changed = [
            (path, change)
            for path, change in changes
            if not any(contains(field, path) for field in plan.ignored)
        ]
        self.total = (
            fields.total
            - sum(fields.below.get(field, 0) for field in plan.ignored)
            + sum(change for _, change in self._changed)
        )

    def below(self, field: str) -> int:
        found = self._fields.below.get(field, 0)
        return (
            found + sum(change for path, change in self._changed if contains(field, path))
            if found
            else 0
        )
