"""Streams of responses: what is stored of one, chunk by chunk, and what it adds up to."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any, Final

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
    ThinkingBlock,
)

from llama_index_llm_cache_mem.values import (
    Response,
    decode_tree,
    encode,
    encode_tree,
    has_form,
)
from llm_cache_mem import ValueNotCacheable
from llm_cache_mem.engine.streams import ChunkRecording
from llm_cache_mem.values.payload import Payload
from llm_cache_mem.values.series import Sum, change, changed
from llm_cache_mem.values.tagged import to_tree

__all__ = ["Recording", "as_chunks", "read_chunks", "read_whole"]


_RECENT: Final = 64
"""How many readers of one stream find the tree of their last chunk."""


class Recording(ChunkRecording):
    """The chunks of one stream as they pass: snapshots, so that nothing a consumer does to a chunk
    is stored.

    *read* makes a chunk of a snapshot for another caller.
    """

    def __init__(self, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self._read = read
        self._series: list[Any] = []
        self._sum = Sum()
        self._tree: Any = None
        self._recent: OrderedDict[int, Any] = OrderedDict()  # trees by the number of their chunk
        self._lock = Lock()
        self._deltas: list[str] = []
        self._raws: list[Any] = []

    def record(self, chunk: Any) -> tuple[Any, int]:
        tree = encode_tree(chunk)
        made = change(self._tree, tree)
        self._sum.add(made)
        self._series.append(made)
        self._tree = tree
        self._deltas.append(chunk.delta or "")
        if chunk.raw is not None:
            self._raws.append(chunk.raw)
        return len(self._series) - 1, Payload.of(made).size

    def copy(self, form: Any) -> Any:
        return self._read(self._tree_of(form)) if type(form) is int else super().copy(form)

    def _tree_of(self, number: int) -> Any:
        """The tree of a chunk, from that of one shortly before it: readers go from chunk to
        chunk."""
        with self._lock:
            known = number
            while known >= 0 and known not in self._recent:
                known -= 1
            tree = self._recent.get(known)
            for made in self._series[known + 1 : number + 1]:
                tree = changed(tree, made)
            self._recent[number] = tree
            self._recent.move_to_end(number)
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            return tree

    def entry(self) -> tuple[Any, Any]:
        if self.fault is not None:
            raise self.fault
        last = None if self._tree is None else decode_tree(self._tree)
        whole = None if last is None else _whole(last, self._deltas)
        if whole is None:
            raise ValueNotCacheable(
                "stream", "it was empty, or its text is not what its pieces add up to"
            )
        stored: dict[str, Any] = {"chunks": self._series}
        if not any(map(has_form, self._raws)):
            stored["whole"] = None if whole is last else to_tree(encode(whole))
        return stored, self._response(whole)

    def _response(self, whole: Response) -> list[Any]:
        """What admission and accounting read: the provider's own chunks, for their reasons to stop
        and their usage, then *whole*."""
        blank: dict[str, Any] = {
            "text": "",
            "message": ChatMessage(role="assistant"),
            "additional_kwargs": {},
            "delta": None,
        }
        return [*(type(whole).model_construct(**blank, raw=raw) for raw in self._raws[:-1]), whole]


def _whole(last: Any, deltas: list[str]) -> Any:
    """The whole answer, of which *last* is the last chunk; None if *deltas* and text contradict
    each other.

    Integrations differ: most let the text grow, some give only the newest piece of it, MockLLM is
    a word short in its last chunk.
    """
    joined = "".join(deltas)
    texts = (
        [last.text]
        if isinstance(last, CompletionResponse)
        else [b.text for b in last.message.blocks if isinstance(b, TextBlock)]
    )
    if not joined or joined in ("".join(texts), "\n".join(texts)):
        return last
    text = "".join(texts)
    if len(texts) <= 1 and (joined.startswith(text) or joined.endswith(text)):
        return _with_text(last, joined)
    return None


def _with_text(response: Any, text: str) -> Any:
    if isinstance(response, CompletionResponse):
        return response.model_copy(update={"text": text})
    blocks = [
        TextBlock(text=text) if isinstance(block, TextBlock) else block
        for block in response.message.blocks
    ]
    if not any(isinstance(block, TextBlock) for block in blocks):
        blocks.insert(0, TextBlock(text=text))
    return response.model_copy(
        update={"message": response.message.model_copy(update={"blocks": blocks})}
    )


def read_chunks(stored: Mapping[str, Any]) -> Iterator[Any]:
    """The chunks of a stream, as they came."""
    tree: Any = None
    together = Sum()
    for made in stored["chunks"]:
        together.add(made)
        tree = changed(tree, made)
        yield decode_tree(tree)


def answer_in(payload: Payload) -> Any:
    """The answer in a stored stream as JSON, to be compared: wherever its chunks were cut, and
    without what the provider says beside it."""
    chunks = list(read_chunks(payload.decode()))
    whole = _whole(chunks[-1], [chunk.delta or "" for chunk in chunks])
    extra = {n: v for n, v in whole.additional_kwargs.items() if n != "thinking_delta"}
    bare = whole.model_copy(update={"raw": None, "delta": None, "additional_kwargs": extra})
    return Payload.of(encode(bare)).as_tree()


def read_whole(stored: Mapping[str, Any]) -> Any:
    """The whole answer of a stream; None where its ``raw`` has the form of a chunk."""
    if "whole" not in stored:
        return None
    if stored["whole"] is None:
        *_, response = read_chunks(stored)
    else:
        response = decode_tree(stored["whole"])
    response.delta = None
    response.additional_kwargs.pop("thinking_delta", None)
    return response


def as_chunks(response: Any) -> list[Any] | None:
    """An answer that was no stream as one: its thoughts and its text in one chunk each. None where
    its ``raw`` has the form of a whole answer."""
    if has_form(response.raw):
        return None
    if isinstance(response, CompletionResponse):
        response.delta = response.text
        return [response]
    response.delta = response.message.content or ""
    thoughts = "".join(
        block.content or "" for block in response.message.blocks if isinstance(block, ThinkingBlock)
    )
    if not thoughts:
        return [response]
    message = ChatMessage(role=response.message.role, blocks=[TextBlock(text="")])
    first = ChatResponse(message=message, delta="", additional_kwargs={"thinking_delta": thoughts})
    return [first, response]
