"""A recorder turns the calls of a running program into a trace: salted digests, counts of tokens
and times, never a word."""

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from hashlib import blake2b
from time import time
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.bench.formats import HEADER
from llm_cache_mem.engine.streams import AsyncTee, Recording, Tee
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys import digest
from llm_cache_mem.responses.usage import read_model, read_usage
from llm_cache_mem.tools.results import KINDS
from llm_cache_mem.values.entry import Entry

__all__ = ["Converted", "TraceRecorder", "convert"]

_log = logging.getLogger(__name__)

_BLOCK: Final = 1024  # bytes of prompt
_PREFIX_PARAMS: Final = (
    "tools",
    "system",
    "instructions",
)  # what providers put in front of the messages
_CALLS: Final = frozenset({"hit", "coalesced", "stored", "skipped"})
_OF_TOOLS: Final = [[kind] for kind in KINDS]  # whose runs are no calls of a model
_BITS: Final = (1 << 53) - 1  # of a block's hash: an integer that every JSON reader keeps


class TraceRecorder:
    """Appends a line for each call to the trace at *path*, which this user alone may read (0600).

    ``LLMCache(on_event=TraceRecorder("trace.jsonl"))`` records what goes through a cache, but for
    runs of tools. ``recorder.wrap(create)`` records a function that is called as
    ``create(messages=..., **params)``, with a cache behind it or none, and knows the blocks of its
    prompts too, without which nothing can be said about a prompt cache. Use one of them.

    Digests are salted, so that nobody can find a prompt by trying. Programs, and runs of one, whose
    calls are to be compared share a
    *salt*, a secret of yours; without one it is random. Thread-safe and fork-safe, and several
      processes may write to one file. It
    never fails the call that it records: what cannot be written is counted in ``lost`` and logged
    once.

    Raises OSError if *path* cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        salt: str | bytes | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        secret = (
            secrets.token_bytes(32)
            if salt is None
            else salt.encode()
            if isinstance(salt, str)
            else salt
        )
        self._salt = blake2b(secret).digest()
        self._clock = clock
        self._path = os.fspath(path)
        flags = (
            os.O_WRONLY
            | os.O_APPEND
            | os.O_CREAT
            | getattr(os, "O_CLOEXEC", 0)
            | getattr(os, "O_NOFOLLOW", 0)
        )
        self._file: int | None = os.open(self._path, flags, 0o600)
        self.lost = 0
        if not os.fstat(self._file).st_size:
            self._append({"format": HEADER, "version": 1})

    def __repr__(self) -> str:
        return f"TraceRecorder({self._path!r})"

    # -- What it is told

    def __call__(self, event: Event) -> None:
        """Record the call that *event* of a cache is about, if it is about one. What was not stored
        counts as a call of unknown length."""
        if (
            event.name in _CALLS
            and event.key is not None
            and event.key.split(":", 3)[2:3] not in _OF_TOOLS
        ):
            sent, received = event.usage[:2] if event.usage is not None else (0, 0)
            took = event.seconds or 0.0
            at = event.at - took if event.name == "stored" else event.at
            self._line(at, self._digest(event.key), event.model, sent, received, event.seconds)

    def wrap(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """*fn*, sync or async, streaming or not, recorded: a call that raises, or a stream that is
        left, is not."""
        from inspect import iscoroutinefunction

        if iscoroutinefunction(fn):

            @wraps(fn)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                began = self._clock()
                response = await fn(*args, **kwargs)
                return self._through(began, args, kwargs, response)

            return awaited

        @wraps(fn)
        def called(*args: Any, **kwargs: Any) -> Any:
            began = self._clock()
            response = fn(*args, **kwargs)
            if hasattr(response, "__await__"):
                return self._awaited(began, args, kwargs, response)
            return self._through(began, args, kwargs, response)

        return called

    def record(
        self,
        messages: Any,
        params: Mapping[str, Any],
        response: Any,
        *,
        at: float | None = None,
        seconds: float | None = None,
    ) -> None:
        """Record one call: its request, the response (read for its usage), when it began (Unix
        seconds) and how long it took."""
        used = read_usage(response)
        model = params.get("model")
        named = model if isinstance(model, str) else read_model(response)
        sent, received = (used.input_tokens, used.output_tokens) if used is not None else (0, 0)
        self.note(
            messages,
            params,
            named,
            sent,
            received,
            at=self._clock() if at is None else at,
            seconds=seconds,
        )

    def note(
        self,
        messages: Any,
        params: Mapping[str, Any],
        model: str | None,
        input_tokens: int,
        output_tokens: int,
        *,
        at: float,
        seconds: float | None = None,
    ) -> None:
        """As ``record``, for who knows the tokens. A request without a key is counted as lost."""
        try:
            asked = {
                name: value for name, value in params.items() if name not in digest.DEFAULT_IGNORE
            }
            key = self._digest(digest.digest(messages, asked))
            text = _in_order_of_the_prompt(messages, params)
        except RequestNotCacheable:
            self.lost += 1
            return
        self._line(at, key, model, input_tokens, output_tokens, seconds, text.encode())

    # -- Inside

    async def _awaited(
        self, began: float, args: tuple[Any, ...], kwargs: dict[str, Any], response: Any
    ) -> Any:
        return self._through(began, args, kwargs, await response)

    def _through(
        self, began: float, args: tuple[Any, ...], kwargs: dict[str, Any], response: Any
    ) -> Any:
        """*response*, recorded, or a stream that is when it has come to its end."""
        params = dict(kwargs)
        messages = (
            params.pop("messages", None)
            if "messages" in params
            else args[0]
            if args
            else params.pop("input", None)
        )

        def done(answer: Any) -> None:
            try:
                self.record(
                    messages, params, answer, at=began, seconds=max(0.0, self._clock() - began)
                )
            # whatever it is, the call that is recorded goes on
            except Exception as exc:  # noqa: BLE001
                self._lose(type(exc).__name__)

        def finish(recording: Recording) -> None:
            done(recording.chunks() if recording.fault is None else None)

        async def afinish(recording: Recording) -> None:
            finish(recording)

        if params.get("stream") and hasattr(response, "__aiter__"):
            return AsyncTee(response, afinish)
        if (
            params.get("stream")
            and hasattr(response, "__iter__")
            and not isinstance(response, (str, bytes, Mapping))
        ):
            return Tee(response, finish)
        done(response)
        return response

    def _digest(self, key: str) -> str:
        return blake2b(key.encode(), key=self._salt, digest_size=16).hexdigest()

    def _line(
        self,
        at: float,
        key: str,
        model: str | None,
        sent: int,
        received: int,
        seconds: float | None,
        prompt: bytes = b"",
    ) -> None:
        line: dict[str, Any] = {"at": round(at, 6), "key": key, "in": sent, "out": received}
        if model is not None:
            line["model"] = model
        if seconds is not None:
            line["seconds"] = round(seconds, 6)
        blocks = self._blocks(prompt)
        if blocks:
            line["blocks"] = blocks
            line["block_tokens"] = max(1, sent * _BLOCK // len(prompt))
        self._append(line)

    def _blocks(self, prompt: bytes) -> list[int]:
        """A number for every whole block of *prompt*, which stands for that block and all before
        it."""
        found, before = [], b""
        for begin in range(0, len(prompt) - _BLOCK + 1, _BLOCK):
            before = blake2b(
                before + prompt[begin : begin + _BLOCK], key=self._salt, digest_size=8
            ).digest()
            found.append(int.from_bytes(before, "big") & _BITS)
        return found

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            if self._file is None:
                raise OSError("closed")
            if os.write(self._file, data) != len(
                data
            ):  # one write: lines of several writers do not mix
                raise OSError("no space")
        except OSError as exc:
            self._lose(exc.strerror or str(exc))

    def _lose(self, why: str) -> None:
        self.lost += 1
        if self.lost == 1:
            _log.warning("a call is not in the trace (%s); the program goes on", why)

    def close(self) -> None:
        """Let go of the file; what is recorded afterwards is lost. A second call does nothing."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _in_order_of_the_prompt(messages: Any, params: Mapping[str, Any]) -> str:
    """A text of the request in which what the model reads first stands first: tools, system, then
    each message, its role in front."""
    front = digest.canonical(
        None, {name: params[name] for name in _PREFIX_PARAMS if name in params}
    )
    turns = messages if isinstance(messages, (list, tuple)) else [messages]
    roles = [str(turn.get("role")) if isinstance(turn, Mapping) else "" for turn in turns]
    return front + "".join(
        f"{role}:{digest.canonical(turn, {})}" for role, turn in zip(roles, turns, strict=True)
    )


class Converted(NamedTuple):
    """How many calls a trace got, and for how many of them the store had kept no request, so that
    nothing is known of their prompts."""

    calls: int
    without_request: int


def convert(entries: Iterable[tuple[str, Entry]], recorder: TraceRecorder) -> Converted:
    """Record each of *entries*, with their keys, in the order in which they come: read the trace
    with ``--sort``."""
    calls = without = 0
    for key, entry in entries:
        calls += 1
        sent, received = (entry.usage or (0, 0))[:2]
        request = json.loads(entry.request) if entry.request is not None else None
        if isinstance(request, dict):
            at = max(0.0, entry.stored_at - (entry.seconds or 0.0))
            messages = request.pop("messages", None)
            recorder.note(
                messages, request, entry.model, sent, received, at=at, seconds=entry.seconds
            )
        else:
            without += 1
            recorder(
                Event("stored", entry.stored_at, key, entry.model, entry.seconds, usage=entry.usage)
            )
    return Converted(calls, without)
