"""The eight methods of LlamaIndex's LLMs that reach a model, and the model that a call reaches."""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from llama_index_llm_cache_mem.view import bare
from llm_cache_mem import LLMCache

__all__ = ["LEAVES", "Args", "Kwargs", "Leaf", "Target", "Usage", "check_usage"]

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = Mapping[str, Any]


Usage: TypeAlias = Literal["zero", "keep"]
"""Whether a hit reports no tokens, or those of the call that was made."""


class Leaf(NamedTuple):
    """One of the abstract methods of BaseLLM. Those of one *kind* share their entries; entries of
    *other_kind* hold the same answer as a stream, or as a whole."""

    name: str
    kind: str
    other_kind: str
    argument: str
    is_async: bool
    streams: bool

    def other(self) -> "Leaf":
        """The method that gives the same answer as a stream, or as a whole."""
        if self.streams:
            return LEAVES[self.name.replace("stream_", "")]
        return LEAVES[f"astream_{self.name[1:]}" if self.is_async else f"stream_{self.name}"]


def _leaf(name: str) -> Leaf:
    chat = name.endswith("chat")
    kinds, argument = (
        (("llama_index.chat", "llama_index.chat.chunks"), "messages")
        if chat
        else (("llama_index.complete", "llama_index.text.chunks"), "prompt")
    )
    streams = "stream" in name
    kind, other = reversed(kinds) if streams else kinds
    return Leaf(name, kind, other, argument, name.startswith("a"), streams)


_NAMES: Final = (
    "chat complete stream_chat stream_complete achat acomplete astream_chat astream_complete"
)
LEAVES: Final = {name: _leaf(name) for name in _NAMES.split()}


def check_usage(usage: str) -> None:
    """ValueError if *usage* is no Usage."""
    if usage not in ("zero", "keep"):
        raise ValueError(f"usage must be 'zero' or 'keep', not {usage!r}")


class Target(NamedTuple):
    """The LLM of a call: *llm* as the caller knows it, perhaps a view, and *inner*, the LLM that
    it stands for. *identity* names what is opaque in it."""

    cache: LLMCache
    llm: Any
    inner: Any
    identity: str = ""
    usage: Usage = "zero"

    def method(self, name: str) -> Any:
        """A method of the LLM itself, none of whose own calls come back to the cache."""
        return getattr(bare(self.inner), name)
