"""What a child of multiprocessing does with a cache, in a module that a spawned one can import."""

from contextlib import nullcontext
from typing import Any

from llm_cache_mem import LLMCache, options

__all__ = ["ask", "ask_of_tenant", "inherited"]

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


def ask_of_tenant(cache: LLMCache, tenant: str, asked: str = "") -> tuple[str, dict[str, int]]:
    """What *tenant*, with the namespace *asked* for here if any, is told, and what was skipped."""
    with options(namespace=asked) if asked else nullcontext():
        answer = cache.get_or_call("hi", lambda messages: f"for {tenant}")
    return answer, dict(cache.stats().skipped)
