"""Fields of requests, compared by sums of the hashes of their leaves."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from llm_cache_mem.diagnostics.differences import with_named_query
from llm_cache_mem.keys.functions import SYSTEM_PARAMS, SYSTEM_ROLES

__all__ = ["PATTERNS", "Fields", "all_fields", "contains", "pattern_of", "repeats"]

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
    "a UUID": (
        r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\b"
    ),
    "an id": (
        r"\b(?:req|request|run|trace|span|session|sess|conv|conversation|thread|user|call|msg|toolu|chatcmpl|id)[-_][0-9A-Za-z_-]{6,}"
    ),
    "a hexadecimal number": r"(?<![0-9A-Za-z])(?=[0-9a-f]*\d)[0-9a-f]{16,64}\b",
    "a Unix time": r"\b1\d{9}(?:\d{3})?\b(?:\.\d+)?",
}
"""Patterns, by name, of text that often changes from call to call without changing the answer."""

_SAID = frozenset(
    [
        "role",
        "content",
        "parts",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "refusal",
        "reasoning_content",
    ]
)
"""The fields of messages that are the conversation itself."""
_MOST_LEAVES = 20_000  # a request with more is taken field by field, not leaf by leaf


class Fields:
    """The fields of one request: the sum of the hashes of all leaves, that of the leaves below each
    field, and the texts that masking() would read."""

    __slots__ = ("_masked", "below", "request", "texts", "total")

    def __init__(self, request: Mapping[str, Any], ignored: frozenset[str]) -> None:
        if not isinstance(request, Mapping):
            raise ValueError(f"a request is a JSON object, not {type(request).__name__}")
        self.request = request = {
            name: value for name, value in with_named_query(request).items() if name not in ignored
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
        """The changes of the sum by masking the patterns of these *names*, by the path of each text
        that changes."""
        changes = self._masked.get(names)
        if changes is None:
            changes = self._masked[names] = {}
            substitute = re.compile(pattern_of(names)).sub
            for path, text in self.texts:
                masked = substitute("…", text)
                if masked != text:
                    changes[path] = _hash(path, masked) - _hash(path, text)
        return changes


def pattern_of(names: Iterable[str]) -> str:
    """One pattern for those of PATTERNS with these *names*."""
    return "|".join(PATTERNS[name] for name in names)


def _hash(path: str, value: Any) -> int:
    """The hash of one str: sums of tuples' hashes collide, because of how those are made."""
    try:
        return hash(f"{path}={json.dumps(value, sort_keys=True)}")
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"a request must be JSON, and {path or 'this one'} is not") from None


def _leaves(request: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    """Each leaf: the paths of the fields that contain it, ending with its own, and its value."""
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
        for n, message in listed
        if type(message) is dict and message.get("role") in SYSTEM_ROLES
    )


def _message_fields(parents: list[str], systems: frozenset[str]) -> list[str]:
    """The fields to which a leaf of a message belongs: all of them in a system prompt, elsewhere
    those that are not the conversation, for messages in general."""
    if len(parents) < 3:
        return []
    message, field = parents[1:3]
    is_said = field.removeprefix(f"{message}.") in _SAID
    of_every = (
        [] if is_said else [f"messages[]{path.removeprefix(message)}" for path in parents[2:]]
    )
    return [*of_every, *parents[1:]] if message in systems else of_every


def repeats(totals: Iterable[int]) -> int:
    """How many of *totals* are equal to an earlier one."""
    totals = list(totals)
    return len(totals) - len(set(totals))


def all_fields(requests: list[Fields]) -> list[str]:
    """The fields of all *requests*, each once."""
    return list(dict.fromkeys(field for one in requests for field in one.below))


def contains(field: str, other: str) -> bool:
    """Whether *other* is *field* or below it; ``[]`` stands for any item of a list."""
    pattern = re.escape(field).replace(r"\[\]", r"\[\d*\]")
    return re.match(rf"{pattern}(?:[.\[]|$)", other) is not None
