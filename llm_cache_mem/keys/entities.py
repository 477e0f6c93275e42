"""Entities: the names of what the result of a call depends on, taken from its arguments."""

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from itertools import product
from string import Formatter
from typing import Any, TypeAlias

from llm_cache_mem.errors import RequestNotCacheable

__all__ = ["Changed", "Entities", "namer_of"]

Entities: TypeAlias = "str | Iterable[str] | Callable[[Mapping[str, Any]], str | Iterable[str]]"
"""Names of entities: ``"user:{user_id}"``, several of these, or a function from the arguments to
names."""
Changed: TypeAlias = "Entities | Callable[[Mapping[str, Any], Any], str | Iterable[str]]"
"""The same for a tool that writes; a function may take its result as well, None if it raised."""

_ENTITIES = "an entity is named by a str such as 'user:{user_id}'"


def namer_of(
    entities: Any, *, takes_result: bool = False
) -> tuple[Callable[..., list[str]], frozenset[str]]:
    """A function from the arguments of a call by name to the names of its *entities*, and the
    arguments in their templates. With *takes_result* it gets the result too.

    TypeError or ValueError for what are no entities; the function raises RequestNotCacheable where
    the arguments name none.
    """
    if callable(entities):
        if takes_result and _takes_two(entities):
            return lambda args, result=None: _names(entities(args, result)), frozenset()
        return lambda args, result=None: _names(entities(args)), frozenset()
    if not isinstance(entities, Iterable):
        raise TypeError(
            f"{_ENTITIES}, several of these or a function, not {type(entities).__name__}"
        )
    parsed = [
        _parse(template) for template in ([entities] if isinstance(entities, str) else entities)
    ]
    named_after = frozenset(field for parts in parsed for _, field in parts if field is not None)
    return (
        lambda args, result=None: sorted(
            {name for parts in parsed for name in _filled(parts, args)}
        ),
        named_after,
    )


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        signature(function).bind(None, None)
    except (TypeError, ValueError):  # or it has no signature
        return False
    return True


def _names(found: Any) -> list[str]:
    names = [found] if isinstance(found, str) else list(found or ())
    if not all(isinstance(name, str) for name in names):
        raise RequestNotCacheable("depends_on", "the name of an entity is not a str")
    return sorted(set(names))


def _parse(template: Any) -> list[tuple[str, str | None]]:
    """The literal parts of *template*, each with the argument that follows it."""
    if not isinstance(template, str):
        raise TypeError(f"{_ENTITIES}, not {type(template).__name__}")
    try:
        found = list(Formatter().parse(template))
    except ValueError as exc:
        raise ValueError(f"{_ENTITIES}, not {template!r}: {exc}") from None
    parts = []
    for literal, field, form, conversion in found:
        if field is not None and (form or conversion or not field.isidentifier()):
            raise ValueError(
                "in braces, the name of an entity has the name of an argument and nothing else:"
                f" {template!r}"
            )
        parts.append((literal, field))
    return parts


def _filled(parts: list[tuple[str, str | None]], args: Mapping[str, Any]) -> list[str]:
    """The names that a template stands for; for an argument that is a list, one for each item."""
    choices: list[list[str]] = []
    for literal, field in parts:
        choices.append([literal])
        if field is not None:
            if field not in args:
                raise RequestNotCacheable(
                    f"args.{field}", "an entity is named after it, and it is missing"
                )
            value = args[field]
            choices.append(
                [
                    _text(item, field)
                    for item in (value if isinstance(value, (list, tuple)) else [value])
                ]
            )
    return ["".join(words) for words in product(*choices)]


def _text(value: Any, field: str) -> str:
    if not isinstance(value, (str, int)):
        raise RequestNotCacheable(
            f"args.{field}", "an entity is named after it, and it is neither a str nor an int"
        )
    return str(value)
