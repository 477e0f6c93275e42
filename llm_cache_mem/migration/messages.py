"""Lines of JSON that hold messages, params and an answer."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.errors import RequestNotCacheable, ValueNotCacheable
from llm_cache_mem.migration.sources import UNREADABLE, Form, Skipped, files_in

__all__ = ["Chat", "read_lines"]


@without_content
class Chat(NamedTuple):
    """A request and its answer."""

    messages: Any
    params: dict[str, Any]
    answer: Any

    def ask(self, cache: LLMCache, form: Form) -> None:
        try:
            answer = form(self.answer) if _is_completion(self.answer) else self.answer
            cache.key(self.messages, **self.params)
            cache.get_or_call(self.messages, lambda **request: answer, **self.params)
        except (RequestNotCacheable, ValueNotCacheable):
            raise Skipped("a request without a wire form") from None


def read_lines(
    source: str, read: Callable[[dict[str, Any]], Iterator[Chat | Skipped]]
) -> Iterator[Chat | Skipped]:
    """What *read* makes of each line of the JSON Lines file, or of those below the folder, at
    *source*."""
    for file in files_in(source, ".jsonl", ".ndjson", ".json"):
        with file.open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError):
                    yield Skipped("a line that is not JSON")
                    continue
                if isinstance(found, dict):
                    yield from _read(read, found)
                elif line.strip():
                    yield Skipped("a line that is not an object")


def _read(
    read: Callable[[dict[str, Any]], Iterator[Chat | Skipped]], line: dict[str, Any]
) -> Iterator[Chat | Skipped]:
    try:
        yield from read(line)
    except Skipped as exc:
        yield exc
    except Exception:  # noqa: BLE001  # foreign data, of which nothing is quoted
        yield Skipped(UNREADABLE)


def _is_completion(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("object") == "chat.completion"


def answer_of(
    message: Any, model: str, usage: dict[str, int] | None, reason: str
) -> dict[str, Any]:
    """A chat completion of one *message*."""
    return {
        "id": "chatcmpl-imported",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": usage,
    }
