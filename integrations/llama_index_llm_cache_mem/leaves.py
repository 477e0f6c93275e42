"""The eight methods of LlamaIndex's LLMs that reach a model, and the model that a call reaches."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from llama_index_llm_cache_mem.view import bare
from llm_cache_mem import LLMCache

__all__ = ["LEAVES", "Args", "Kwargs", "Leaf", "Target"]

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = Mapping[str, Any]


class Leaf(NamedTuple):
    """One of the abstract methods of BaseLLM. Those of one *kind* share their entries."""

    name: str
    kind: str
    argument: str
    is_async: bool
    streams: bool


def _leaf(name: str) -> Leaf:
    chat = name.endswith("chat")
    kind, argument = (
        ("llama_index.chat", "messages") if chat else ("llama_index.complete", "prompt")
    )
    return Leaf(name, kind, argument, name.startswith("a"), "stream" in name)


_NAMES: Final = (
    "chat complete stream_chat stream_complete achat acomplete astream_chat astream_complete"
)
LEAVES: Final = {name: _leaf(name) for name in _NAMES.split()}


class Target(NamedTuple):
    """The LLM of a call: *llm* as the caller knows it, perhaps a view, and *inner*, the LLM that
    it stands for. *identity* names what is opaque in it."""

    cache: LLMCache
    llm: Any
    inner: Any
    identity: str = ""

    def method(self, name: str) -> Any:
        """A method of the LLM itself, none of whose own calls come back to the cache."""
        return getattr(bare(self.inner), name)
