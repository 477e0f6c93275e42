"""Streams of responses: what one adds up to while it passes through, and the chunks of a stored
answer."""

from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
    ThinkingBlock,
)

from llama_index_llm_cache_mem.values import Pieces, Response, encode

__all__ = ["Recording", "replay"]


class Recording:
    """The chunks of one stream as they pass: snapshots, so that nothing a consumer does to a chunk
    is stored."""

    def __init__(self) -> None:
        self._pieces: list[list[str | None]] = []
        self._last: Response | None = None
        self._raws: list[Any] = []

    def add(self, chunk: Any) -> None:
        """Take note of *chunk*; call it before the consumer gets it."""
        if chunk.raw is not None:
            self._raws.append(chunk.raw)
        self._pieces.append([chunk.delta, chunk.additional_kwargs.get("thinking_delta")])
        self._last = _snapshot(chunk)

    def entry(self) -> tuple[Any, Any] | None:
        """What to store, and what admission and accounting read of it; None if there is nothing."""
        result = self.result()
        return None if result is None else (encode(*result), self.chunks(result[0]))

    def result(self) -> tuple[Response, Pieces] | None:
        """The whole answer and its pieces; None if there is none, or if deltas and text contradict
        each other.

        Integrations differ: most let the text grow, some give only the newest piece of it, MockLLM
        is a word short in its last chunk.
        """
        last = self._last
        if last is None:
            return None
        joined = "".join(delta or "" for delta, _ in self._pieces)
        texts = (
            [last.text]
            if isinstance(last, CompletionResponse)
            else [b.text for b in last.message.blocks if isinstance(b, TextBlock)]
        )
        if not joined or joined in ("".join(texts), "\n".join(texts)):
            return last, self._pieces
        text = "".join(texts)
        if len(texts) <= 1 and (joined.startswith(text) or joined.endswith(text)):
            return _with_text(last, joined), self._pieces
        return None

    def chunks(self, whole: Response) -> list[Any]:
        """What admission and accounting read: the provider's own chunks, for their reasons to stop
        and their usage, then *whole*."""
        blank: dict[str, Any] = {
            "text": "",
            "message": ChatMessage(role="assistant"),
            "additional_kwargs": {},
            "delta": None,
        }
        return [*(type(whole).model_construct(**blank, raw=raw) for raw in self._raws[:-1]), whole]


def _snapshot(chunk: Any) -> Any:
    """A copy down to the blocks."""
    changes: dict[str, Any] = {"additional_kwargs": dict(chunk.additional_kwargs)}
    if isinstance(chunk, ChatResponse):
        message = chunk.message
        blocks = [block.model_copy() for block in message.blocks]
        changes["message"] = message.model_copy(
            update={"blocks": blocks, "additional_kwargs": dict(message.additional_kwargs)}
        )
    return chunk.model_copy(update=changes)


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


def replay(response: Any, pieces: Pieces) -> list[Any]:
    """The chunks of a stored answer: as they came, or for one that was no stream its thoughts and
    its text in one chunk each.

    Text grows from chunk to chunk, and the last one is the whole answer.
    """
    if pieces is None:
        pieces = _as_pieces(response)
        response.delta = pieces[-1][0]
    chunks: list[Any] = []
    text = ""
    for delta, thoughts in pieces[:-1]:
        text += delta or ""
        chunks.append(_chunk(response, text, delta, thoughts))
    return [*chunks, response]


def _as_pieces(response: Any) -> list[list[str | None]]:
    if isinstance(response, CompletionResponse):
        return [[response.text, None]]
    thoughts = "".join(
        block.content or "" for block in response.message.blocks if isinstance(block, ThinkingBlock)
    )
    text: list[str | None] = [response.message.content or "", None]
    return [["", thoughts], text] if thoughts else [text]


def _chunk(response: Any, text: str, delta: str | None, thoughts: str | None) -> Any:
    beside = {} if thoughts is None else {"thinking_delta": thoughts}
    if isinstance(response, CompletionResponse):
        return CompletionResponse(text=text, delta=delta, additional_kwargs=beside)
    message = ChatMessage(role=response.message.role, blocks=[TextBlock(text=text)])
    return ChatResponse(message=message, delta=delta, additional_kwargs=beside)
