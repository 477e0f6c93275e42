"""Over a whole run: which fields of the requests cost most hits, and which key function would win
them back.

A field costs a hit where leaving it out makes a request equal to an earlier one. All is counted
without age and capacity: a request hits if an equal one came before it. Only names of fields and
patterns are reported, never what a request says.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from itertools import accumulate, islice
from typing import Any, NamedTuple

from llm_cache_mem._util.terminal import visible
from llm_cache_mem.accounting.render import table
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.functions import SYSTEM_PARAMS, SYSTEM_ROLES, ignoring, last_turn, masking
from llm_cache_mem.keys.request import parameter_names

__all__ = ["PATTERNS", "Cost", "Remedy", "Survey", "survey"]

PATTERNS: Mapping[str, str] = {
    "a date and time": (
        r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z| ?UTC|[+-]\d\d:?\d\d)?"
    ),
    "a date": r"\d{4}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.]\d{4}|\d{4}年\d\d?月\d\d?日",
    "a date in words": (
        r"(?:(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?,? )?"
        r"(?:(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.? \d\d?(?:st|nd|rd|th)?,?"
        r" \d{4}"
        r"|\d\d?(?:st|nd|rd|th)? (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?,?"
        r" \d{4})"
    ),
    "a time of day": r"\b\d\d?:\d\d(?::\d\d(?:\.\d+)?)?(?: ?[AaPp]\.?[Mm]\b\.?)?",
    "a UUID": r"\b[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\b",
    "an id": (
        r"\b(?:req|request|run|trace|span|session|sess|conv|conversation|thread|user|call|msg|toolu|chatcmpl|id)[-_][0-9A-Za-z_-]{6,}"
    ),
    "a hexadecimal number": r"\b(?=[0-9a-f]*\d)[0-9a-f]{16,64}\b",
    "a Unix time": r"\b1\d{9}(?:\d{3})?\b(?:\.\d+)?",
}
"""What often changes from call to call and not the answer, by its name."""

_DECISIVE = frozenset(
    {
        *SYSTEM_PARAMS,
        *(
            "model",
            "messages",
            "input",
            "contents",
            "prompt",
            "texts",
            "documents",
            "tools",
            "functions",
            "tool_choice",
        ),
        *(
            "tool_config",
            "toolConfig",
            "response_format",
            "output_config",
            "format",
            "previous_response_id",
            "cachedContent",
        ),
        *(
            "temperature",
            "top_p",
            "top_k",
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "stop",
            "stop_sequences",
        ),
        *(
            "seed",
            "n",
            "reasoning",
            "reasoning_effort",
            "thinking",
            "generationConfig",
            "generation_config",
            "stream",
            "base_url",
            "url",
        ),
        *("deployment", "engine", "http.base_url", "http.path", "http.query", "http.source"),
    }
)
"""Params that decide the answer: a difference in them is shown, but leaving them out is nothing to
advise."""

_SAID = frozenset(
    {
        "role",
        "content",
        "parts",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "refusal",
        "reasoning_content",
    }
)
_STEPS = 6  # fields and patterns that the advice names at the most
_PAIRED, _PAIRED_CHARACTERS = (
    1000,
    2_000_000,
)  # requests, and text in them, in which pairs of fields are tried
_MOST_LEAVES = 20_000  # a request with more is taken field by field, not leaf by leaf


class Cost(NamedTuple):
    """*hits* more there would be if *field* were no part of the key."""

    field: str
    hits: int


class Remedy(NamedTuple):
    """*why*: what differs; *key_fn*: this and all remedies before it, as code; *hits*: what there
    would be with it, in all."""

    why: str
    key_fn: str
    hits: int


class Survey(NamedTuple):
    """*hits* of *requests* as the keys are now; what each field costs, the dearest first; and
    remedies, each on top of the last.

    *last_turn_hits*: what there would be if earlier turns of a conversation did not count.
    """

    requests: int
    hits: int
    costs: tuple[Cost, ...]
    remedies: tuple[Remedy, ...]
    last_turn_hits: int

    def __str__(self) -> str:
        lines = [
            f"{self.requests:,} {'request' if self.requests == 1 else 'requests'},"
            f" {self.with_share(self.hits)} equal to an earlier one"
        ]
        if self.costs:
            costs = [(visible(cost.field), cost.hits) for cost in self.costs]
            width = max(len(field) for field, _ in costs)
            lines += [
                "",
                "fields that cost most hits",
                *(f"  {field:<{width}}  {hits:,}" for field, hits in costs),
            ]
        if self.remedies:
            lines += ["", "what would win them back, if it does not change the answer"]
            lines += [
                f"  {self.with_share(remedy.hits)} hits without {visible(remedy.why)}"
                for remedy in self.remedies
            ]
            lines += ["", f"  key_fn={visible(self.remedies[-1].key_fn)}"]
        if self.last_turn_hits > max([self.hits, *(remedy.hits for remedy in self.remedies)]):
            lines += [
                "",
                (
                    f"  {self.with_share(self.last_turn_hits)} hits with key_fn=last_turn, to which"
                    " earlier turns do not matter"
                ),
            ]
        if not self.costs and not self.remedies:
            lines += ["", "no single field stands between a request and an earlier one"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [
            f"<p>{self.requests:,} requests, {self.with_share(self.hits)} equal to an earlier"
            " one</p>"
        ]
        if self.costs:
            rows = [(cost.field, f"{cost.hits:,}") for cost in self.costs]
            parts.append(table([("field that costs hits", "hits"), *rows]))
        if self.remedies:
            head = ("what would win them back, if it does not change the answer", "hits")
            rows = [(f"without {why}", self.with_share(hits)) for why, _, hits in self.remedies]
            parts.append(table([head, *rows]))
            parts.append(f"<p><code>key_fn={escape(self.remedies[-1].key_fn)}</code></p>")
        elif not self.costs:
            parts.append("<p>no single field stands between a request and an earlier one</p>")
        return "".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return self._asdict() | {
            name: [one._asdict() for one in getattr(self, name)] for name in ("costs", "remedies")
        }

    def with_share(self, hits: int) -> str:
        """*hits*, and which part of all requests that is."""
        return f"{hits:,} ({hits / self.requests if self.requests else 0.0:.1%})"


def survey(
    requests: Iterable[Mapping[str, Any]],
    *,
    ignore: Iterable[str] = digest.DEFAULT_IGNORE,
    keep: Iterable[str] = (),
    top: int = 10,
) -> Survey:
    """What stands between *requests* (JSON objects: params, and ``messages`` if they have any) and
    hits; the *top* fields of it.

    *ignore*: params that are no part of a request, as in ``LLMCache(ignore=...)``. *keep*: params
      that decide the answer, besides
    those known to, such as ``model``: no remedy leaves them out.

    What is said in a conversation is no field: without it every request would be the same. Takes
    memory for the shape of each request. Costs are counted by hashes of fields; remedies by the
    keys that their key function makes. ValueError for what is no JSON object.
    """
    ignored = parameter_names(ignore)
    seen = [_Seen(request, ignored) for request in requests]
    found = Survey(len(seen), _real_hits(seen, None), (), (), _real_hits(seen, last_turn))
    return found._replace(
        costs=_costs(seen, top), remedies=tuple(_remedies(seen, found.hits, _DECISIVE.union(keep)))
    )


class _Seen:
    """One request: the sum of its leaves' hashes, the part of it below each field, and its text
    that masking() would read."""

    __slots__ = ("_masked", "below", "request", "texts", "total")

    def __init__(self, request: Mapping[str, Any], ignored: frozenset[str]) -> None:
        if not isinstance(request, Mapping):
            raise ValueError(f"a request is a JSON object, not {type(request).__name__}")
        self.request = request = {
            name: value for name, value in request.items() if name not in ignored
        }
        self.below: dict[str, int] = {}
        self.texts: list[tuple[str, str]] = []
        self._masked: dict[tuple[str, ...], dict[str, int]] = {}
        self.total = 0
        leaves = list(islice(_leaves(request), _MOST_LEAVES + 1))
        if len(leaves) > _MOST_LEAVES:
            leaves = [([name], value) for name, value in request.items()]
        systems = _system_messages(request)
        for parents, value in leaves:
            leaf = _hash(parents[-1], value)
            self.total += leaf
            for field in parents if parents[0] != "messages" else _message_fields(parents, systems):
                self.below[field] = self.below.get(field, 0) + leaf
            if type(value) is str and parents[0] in ("messages", *SYSTEM_PARAMS):
                self.texts.append((parents[-1], value))

    def masked(self, names: tuple[str, ...]) -> dict[str, int]:
        """What masking with the patterns of these *names* does to the sum, by the path of the text
        that it changes."""
        changes = self._masked.get(names)
        if changes is None:
            changes = self._masked[names] = {}
            substitute = re.compile(_pattern(names)).sub
            for path, text in self.texts:
                masked = substitute("…", text)
                if masked != text:
                    changes[path] = _hash(path, masked) - _hash(path, text)
        return changes


def _pattern(names: Iterable[str]) -> str:
    return "|".join(PATTERNS[name] for name in names)


def _hash(path: str, value: Any) -> int:
    """Of one str: hashes of tuples, added up, would meet by their making."""
    try:
        return hash(f"{path}={json.dumps(value, sort_keys=True)}")
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"a request must be JSON, and {path or 'this one'} is not") from None


def _leaves(request: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    """Each leaf: the paths of what holds it and, the last, its own; and its value."""
    pending: list[tuple[list[str], Any]] = [([name], value) for name, value in request.items()]
    while pending:
        parents, value = pending.pop()
        path = parents[-1]
        if type(value) is dict and value:
            pending += [([*parents, f"{path}.{name}"], item) for name, item in value.items()]
        elif type(value) is list and value:
            pending += [
                ([*parents, f"{path}[{number}]"], item) for number, item in enumerate(value)
            ]
        else:
            yield parents, value


def _system_messages(request: Mapping[str, Any]) -> frozenset[str]:
    """The paths of system prompts among the messages."""
    messages = request.get("messages")
    listed = enumerate(messages) if type(messages) is list else ()
    return frozenset(
        f"messages[{n}]"
        for n, said in listed
        if type(said) is dict and said.get("role") in SYSTEM_ROLES
    )


def _message_fields(parents: list[str], systems: frozenset[str]) -> list[str]:
    """The fields that a leaf of a message belongs to: all in a system prompt, elsewhere those of
    every message that are not said."""
    if len(parents) < 3:
        return []
    message, field = parents[1:3]
    said = field.removeprefix(f"{message}.") in _SAID
    of_every = [] if said else [f"messages[]{path.removeprefix(message)}" for path in parents[2:]]
    return [*of_every, *parents[1:]] if message in systems else of_every


def _repeats(totals: Iterable[int]) -> int:
    totals = list(totals)
    return len(totals) - len(set(totals))


def _without(seen: list[_Seen], field: str) -> int:
    return _repeats(one.total - one.below.get(field, 0) for one in seen)


def _costs(seen: list[_Seen], top: int) -> tuple[Cost, ...]:
    """The narrowest fields first where several cost the same: one leaf rather than all that holds
    it."""
    now = _repeats(one.total for one in seen)
    costs = [
        Cost(field, hits) for field in _fields(seen) if (hits := _without(seen, field) - now) > 0
    ]
    costs.sort(key=lambda cost: (-cost.hits, -len(cost.field)))
    kept: list[Cost] = []
    for cost in costs:
        if not any(cost.hits == other.hits and _holds(cost.field, other.field) for other in kept):
            kept.append(cost)
    return tuple(kept[:top])


def _fields(seen: list[_Seen]) -> list[str]:
    return list(dict.fromkeys(field for one in seen for field in one.below))


def _holds(field: str, other: str) -> bool:
    pattern = re.escape(field).replace(r"\[\]", r"\[\d*\]")
    return re.match(rf"{pattern}(?:[.\[]|$)", other) is not None


class _Plan(NamedTuple):
    """What a key function leaves out: params and fields of messages by name, and what patterns
    match, in the order of PATTERNS."""

    ignored: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()

    def masking(self, name: str) -> "_Plan":
        return self._replace(
            masked=tuple(known for known in PATTERNS if known == name or known in self.masked)
        )

    def key_fn(self) -> Callable[..., Any]:
        inner: dict[str, Any] = {"then": masking(_pattern(self.masked))} if self.masked else {}
        return ignoring(*self.ignored, **inner) if self.ignored else inner["then"]

    def code(self) -> str:
        mask = f'masking(r"{_pattern(self.masked)}")' if self.masked else ""
        names = ", ".join(
            json.dumps(name, ensure_ascii=False) for name in self.ignored
        )  # Python's way too
        return (
            f"ignoring({names}, then={mask})"
            if names and mask
            else f"ignoring({names})"
            if names
            else mask
        )


def _remedies(seen: list[_Seen], hits: int, keep: frozenset[str]) -> Iterator[Remedy]:
    """The remedy that wins most, then the one that wins most on top of it, and so on until there is
    none."""
    plan = _Plan()
    for _ in range(_STEPS):
        best = _best(_steps(seen, plan, keep), _hits(seen, plan)) or _best_pair(
            _some(seen), plan, keep
        )
        if best is None:
            return
        plan = best.plan
        won = _real_hits(seen, plan.key_fn())
        if won <= hits:
            return
        hits = won
        yield Remedy(best.why, plan.code(), hits)


class _Step(NamedTuple):
    """One more field or pattern, and the hits there would be with it, judged by hashes."""

    hits: int
    why: str
    plan: _Plan


def _best(steps: Iterable[_Step], now: int) -> _Step | None:
    return max(
        (step for step in steps if step.hits > now), default=None, key=lambda step: step.hits
    )


def _some(seen: list[_Seen]) -> list[_Seen]:
    """The first of them, as many as there is time to try pairs in."""
    ends = accumulate(sum(len(text) for _, text in one.texts) for one in seen[:_PAIRED])
    return seen[: sum(1 for end in ends if end <= _PAIRED_CHARACTERS)]


def _best_pair(seen: list[_Seen], plan: _Plan, keep: frozenset[str]) -> _Step | None:
    """Two fields or patterns, each of which hides that the other costs hits: a time and an id, both
    new in every request."""
    pairs = (
        second._replace(why=f"{first.why} and {second.why}")
        for first in _steps(seen, plan, keep)
        for second in _steps(seen, first.plan, keep)
    )
    return _best(pairs, _hits(seen, plan))


def _hits(seen: list[_Seen], plan: _Plan) -> int:
    return _repeats(_Left(one, plan).total for one in seen)


def _steps(seen: list[_Seen], plan: _Plan, keep: frozenset[str]) -> Iterator[_Step]:
    left = [_Left(one, plan) for one in seen]
    tops = {name for one in seen for name in one.request}
    for field in _fields(seen):
        if (
            field
            and field not in plan.ignored
            and field not in keep
            and (field in tops or _is_of_messages(field))
        ):
            hits = _repeats(one.total - one.below(field) for one in left)
            yield _Step(hits, field, plan._replace(ignored=(*plan.ignored, field)))
    for name in PATTERNS:
        if name not in plan.masked and any(one.masked((name,)) for one in seen):
            yield _Step(_hits(seen, masked := plan.masking(name)), name, masked)


def _is_of_messages(field: str) -> bool:
    """Whether it is a field of messages as ignoring() takes them."""
    return field.startswith("messages[].") and not set(field.removeprefix("messages[].")) & set(
        ".["
    )


class _Left:
    """What a plan leaves of a request."""

    def __init__(self, seen: _Seen, plan: _Plan) -> None:
        self._seen = seen
        changes = seen.masked(plan.masked).items() if plan.masked else ()
        self._changed = [
            (path, change)
            for path, change in changes
            if not any(_holds(field, path) for field in plan.ignored)
        ]
        self.total = (
            seen.total
            - sum(seen.below.get(field, 0) for field in plan.ignored)
            + sum(change for _, change in self._changed)
        )

    def below(self, field: str) -> int:
        found = self._seen.below.get(field, 0)
        return (
            found + sum(change for path, change in self._changed if _holds(field, path))
            if found
            else 0
        )


def _real_hits(seen: list[_Seen], key_fn: Callable[..., Any] | None) -> int:
    """How many of the requests have the key of an earlier one, by *key_fn*. What has no key never
    hits."""
    known: set[str] = set()
    hits = 0
    for one in seen:
        params = dict(one.request)
        messages = params.pop("messages", None)
        try:
            key = (
                digest.digest(messages, params)
                if key_fn is None
                else digest.digest_of(key_fn(messages, **params))
            )
        except Exception:  # noqa: BLE001  # as Keyer takes it: such a request goes uncached
            key = None
        hits += key in known
        if key is not None:
            known.add(key)
    return hits
