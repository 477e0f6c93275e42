"""Whether two answers to the same request agree: exactly, normalized, in structure, or by a judge
of the user's own."""

import json
import unicodedata
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from llm_cache_mem.errors import LLMCacheError

__all__ = ["COMPARISONS", "Comparison", "comparison", "merged", "text_of"]

Comparison: TypeAlias = Literal["exact", "normalized", "structure"] | Callable[[str, str], object]
"""How a stored and a fresh answer are compared: by name, or a function of their texts."""

_VOLATILE: Final = frozenset(
    {
        *("id", "call_id", "item_id", "tool_call_id", "response_id", "responseId", "request_id"),
        *(
            "_request_id",
            "created",
            "created_at",
            "createTime",
            "completed_at",
            "system_fingerprint",
        ),
        *(
            "service_tier",
            "usage",
            "usage_metadata",
            "usageMetadata",
            "response_metadata",
            "metrics",
        ),
        *("model_version", "modelVersion", "timings", "logprobs", "avgLogprobs", "headers", "cuts"),
        *("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"),
        *("signature", "thoughtSignature", "encrypted_content", "obfuscation", "latencyMs"),
    }
)
"""Fields that differ between two calls that answer alike."""
_TEXTS: Final = frozenset(
    {
        *("content", "text", "thinking", "reasoning", "reasoning_content", "refusal", "delta"),
        *("arguments", "partial_json", "input_json", "response"),
    }
)
"""Fields in which answers, and the pieces of a stream, have their text."""


def comparison(how: Comparison) -> Callable[[Any, Any], bool]:
    """A function of two answers as JSON that returns whether they agree; ValueError or TypeError
    for what is no Comparison."""
    if callable(how):
        return _judged_by(how)
    if not isinstance(how, str):
        raise TypeError(f"verify_with must be a str or a function, not {type(how).__name__}")
    if how not in COMPARISONS:
        raise ValueError(f"verify_with must be a function or one of {', '.join(COMPARISONS)}")
    form = COMPARISONS[how]
    return lambda stored, fresh: bool(form(stored) == form(fresh))


def _judged_by(judge: Callable[[str, str], object]) -> Callable[[Any, Any], bool]:
    import inspect  # slow to import, and needed only here

    if inspect.iscoroutinefunction(judge):
        raise TypeError("verify_with must be a function that returns a bool, not a coroutine")

    def agree(stored: Any, fresh: Any) -> bool:
        found = judge(text_of(stored), text_of(fresh))
        if not hasattr(type(found), "__bool__") or found is None:  # a text is true, "no" as well
            raise LLMCacheError(f"verify_with must return a bool, not {type(found).__name__}")
        return bool(found)

    return agree


def merged(pieces: Any) -> dict[str, str]:
    """The texts of a stream by the names of their fields, wherever its pieces were cut."""
    found: dict[str, list[str]] = {}
    for name, text in _texts_in(pieces):
        found.setdefault(name, []).append(text)
    return {name: "".join(texts) for name, texts in found.items()}


def text_of(answer: Any) -> str:
    """The text of an *answer* in JSON; of one without any, the JSON."""
    if isinstance(answer, str):
        return answer
    texts = [text for _, text in _texts_in(answer)]
    return "\n".join(texts) if texts else json.dumps(_settled(answer), ensure_ascii=False)


def _texts_in(tree: Any, name: str = "") -> "list[tuple[str, str]]":
    if isinstance(tree, str):
        return [(name, tree)] if name in _TEXTS or not name else []
    if isinstance(tree, dict):
        return [found for key, each in tree.items() for found in _texts_in(each, key)]
    if isinstance(tree, list):
        return [found for each in tree for found in _texts_in(each, name)]
    return []


def _settled(tree: Any) -> Any:
    """*tree* without what differs from call to call."""
    if isinstance(tree, dict):
        return {key: _settled(each) for key, each in tree.items() if key not in _VOLATILE}
    return [_settled(each) for each in tree] if isinstance(tree, list) else tree


def _normalized(tree: Any) -> Any:
    """*tree* with each text in one spelling: case, white space, Unicode form and end mark."""
    tree = _settled(tree)
    if isinstance(tree, dict):
        return {key: _normalized(each) for key, each in tree.items()}
    if isinstance(tree, list):
        return [_normalized(each) for each in tree]
    if isinstance(tree, str):
        return " ".join(unicodedata.normalize("NFKC", tree).casefold().split()).rstrip(" .!?")
    return tree


def _structure(tree: Any) -> Any:
    """The shape of *tree*: names and types, those of JSON inside of a text too."""
    tree = _settled(tree)
    if isinstance(tree, str) and tree.lstrip()[:1] in ("{", "["):
        try:
            tree = _settled(json.loads(tree))
        except (ValueError, RecursionError):
            return "str"
    if isinstance(tree, dict):
        return {key: _structure(each) for key, each in tree.items()}
    if isinstance(tree, list):
        shapes = [_structure(each) for each in tree]
        return [shape for at, shape in enumerate(shapes) if shape not in shapes[:at]]
    return "number" if type(tree) in (int, float) else type(tree).__name__


COMPARISONS: Final[dict[str, Callable[[Any], Any]]] = {
    "exact": _settled,
    "normalized": _normalized,
    "structure": _structure,
}
"""The comparisons that have a name, each as what must be equal."""
