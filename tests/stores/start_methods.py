"""What a child of multiprocessing does with a cache, in a module that a spawned one can import."""

from typing import Any

from llm_cache_mem import LLMCache

__all__ = ["ask", "inherited"]

inherited: dict[str, LLMCache] = {}  # what a forked child finds here is its parent's, in use


def ask(url: str, number: int, replies: Any) -> None:
    """Put into *replies* what the parent stored, what this child stored, and whether it had the
    cache from its parent."""
    had = url in inherited
    cache = inherited[url] if had else LLMCache(backend=url, coalesce="fleet")
    asked = [
        cache.get_or_call("parent", lambda messages: "not found"),
        cache.get_or_call(f"child {number}", lambda messages: number),
    ]
    replies.put([*asked, cache.get(f"child {number}"), had])
