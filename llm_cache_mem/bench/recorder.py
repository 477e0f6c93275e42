"""Record the calls of a running program as a trace: salted digests, token counts and times, never
the text of a prompt."""

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from hashlib import blake2b
from inspect import iscoroutinefunction
from typing import Any, Final, NamedTuple, Self

from llm_cache_mem._util.clock import now
from llm_cache_mem.accounting.counts import EntryHits
from llm_cache_mem.accounting.stats import Event
from llm_cache_mem.bench.formats import HEADER, own_record, prompt_blocks
from llm_cache_mem.bench.trace import Call
from llm_cache_mem.engine.streams import AsyncTee, ChunkRecording, Tee
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys import digest
from llm_cache_mem.responses.usage import read_model, read_usage
from llm_cache_mem.tools.results import KINDS
from llm_cache_mem.values.entry import Entry

__all__ = ["RecordedEntries", "TraceRecorder", "record_entries"]

_log = logging.getLogger(__name__)

_PREFIX_PARAMS: Final = ("tools", "system", "instructions")  # read by the model before the messages
_CALLS: Final = frozenset({"hit", "coalesced", "stored", "skipped"})
_TOOL_KINDS: Final = [[kind] for kind in KINDS]  # their runs are not calls of a model
_OPEN_FLAGS: Final = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
)


class TraceRecorder:
    """Appends one line per call to the trace at *path*, readable by this user only (0600).

    ``LLMCache(on_event=TraceRecorder("trace.jsonl"))`` records the calls through a cache, except
    runs of tools. ``recorder.wrap(create)`` records a function called as
    ``create(messages=..., **params)``, with or without a cache behind it. It also records the
    blocks of the prompts, which the simulation of a prompt cache needs. Use one or the other.

    Digests are salted, so that prompts cannot be guessed. Programs and runs whose calls are to be
    compared must share a secret *salt*; without one it is random. The recorder is safe for threads
    and forks, and several processes may write to one file. It never fails the call that it records:
    calls that cannot be written are counted in ``lost``, and the first one is logged.

    Example:
        >>> create = TraceRecorder("trace.jsonl").wrap(client.messages.create)

    Args:
        path: The trace, which is created or appended to.
        salt: The secret that salts the digests; None for a random one.
        clock: Unix seconds.

    Raises:
        OSError: *path* cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        salt: str | bytes | None = None,
        clock: Callable[[], float] = now,
    ) -> None:
        secret = secrets.token_bytes(32) if salt is None else salt
        self._salt = blake2b(secret.encode() if isinstance(secret, str) else secret).digest()
        self._clock = clock
        self._path = os.fspath(path)
        self._file: int | None = os.open(self._path, _OPEN_FLAGS, 0o600)
        self.lost = 0
        if not os.fstat(self._file).st_size:
            self._append({"format": HEADER, "version": 1})

    def __repr__(self) -> str:
        return f"TraceRecorder({self._path!r})"

    def __call__(self, event: Event) -> None:
        """Record the call that a cache's *event* is about, if any. A call that was not stored has
        no known length."""
        if (
            event.name in _CALLS
            and event.key is not None
            and event.key.split(":", 3)[2:3] not in _TOOL_KINDS
        ):
            sent, received = event.usage[:2] if event.usage is not None else (0, 0)
            at = event.at - (event.seconds or 0.0) if event.name == "stored" else event.at
            self._write_call(
                at, self._digest(event.key), event.model, sent, received, event.seconds
            )

    def wrap(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return *fn*, sync or async, streaming or not, with its calls recorded. Calls that raise
        and streams that are not read to the end are not recorded."""
        if iscoroutinefunction(fn):

            @wraps(fn)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                began = self._clock()
                response = await fn(*args, **kwargs)
                return self._observe(began, args, kwargs, response)

            return awaited

        @wraps(fn)
        def called(*args: Any, **kwargs: Any) -> Any:
            began = self._clock()
            response = fn(*args, **kwargs)
            if hasattr(response, "__await__"):
                return self._awaited(began, args, kwargs, response)
            return self._observe(began, args, kwargs, response)

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
        """Record one call: its request, its response (read for its usage), when it began (Unix
        seconds, by default now) and how many seconds it took."""
        used = read_usage(response)
        model = params.get("model")
        named = model if isinstance(model, str) else read_model(response)
        sent, received = (used.input_tokens, used.output_tokens) if used is not None else (0, 0)
        self.record_tokens(
            messages,
            params,
            named,
            sent,
            received,
            at=self._clock() if at is None else at,
            seconds=seconds,
        )

    def record_tokens(
        self,
        messages: Any,
        params: Mapping[str, Any],
        model: str | None,
        input_tokens: int,
        output_tokens: int,
        *,
        at: float,
        seconds: float | None = None,
        repeats: Sequence[float] = (),
    ) -> None:
        """Record one call whose token counts are known, and its *repeats* at these times. A request
        without a key is counted as lost."""
        try:
            asked = {
                name: value for name, value in params.items() if name not in digest.DEFAULT_IGNORE
            }
            key = self._digest(digest.digest(messages, asked))
            prompt = _prompt_text(messages, params).encode()
        except RequestNotCacheable:
            self.lost += 1
            return
        for each in (at, *repeats):
            self._write_call(each, key, model, input_tokens, output_tokens, seconds, prompt)

    async def _awaited(
        self, began: float, args: tuple[Any, ...], kwargs: dict[str, Any], response: Any
    ) -> Any:
        return self._observe(began, args, kwargs, await response)

    def _observe(
        self, began: float, args: tuple[Any, ...], kwargs: dict[str, Any], response: Any
    ) -> Any:
        """Record *response* and return it; a stream is wrapped, and recorded at its end."""
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
            except Exception as exc:  # noqa: BLE001  # recording must never fail the call
                self._count_lost(type(exc).__name__)

        def finish(recording: ChunkRecording) -> None:
            done(recording.chunks() if recording.fault is None else None)

        async def afinish(recording: ChunkRecording) -> None:
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

    def _write_call(
        self,
        at: float,
        key: str,
        model: str | None,
        input_tokens: int,
        output_tokens: int,
        seconds: float | None,
        prompt: bytes = b"",
    ) -> None:
        blocks, block_tokens = prompt_blocks(prompt, input_tokens, salt=self._salt)
        call = Call(at, key, input_tokens, output_tokens, (), "", model, seconds)
        self._append(own_record(call, blocks, block_tokens))

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            if self._file is None:
                raise OSError("closed")
            # In one write, so that the lines of several processes do not mix.
            if os.write(self._file, data) != len(data):
                raise OSError("no space")
        except OSError as exc:
            self._count_lost(exc.strerror or str(exc))

    def _count_lost(self, reason: str) -> None:
        self.lost += 1
        if self.lost == 1:
            _log.warning(
                "could not record a call in %s: %s; the program continues", self._path, reason
            )

    def close(self) -> None:
        """Close the file; later calls are counted as lost. A second call does nothing."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _prompt_text(messages: Any, params: Mapping[str, Any]) -> str:
    """Return the request as text in the order in which the model reads it: tools, system prompt,
    then each message with its role in front."""
    front = digest.canonical(
        None, {name: params[name] for name in _PREFIX_PARAMS if name in params}
    )
    turns = messages if isinstance(messages, (list, tuple)) else [messages]
    roles = [str(turn.get("role")) if isinstance(turn, Mapping) else "" for turn in turns]
    return front + "".join(
        f"{role}:{digest.canonical(turn, {})}" for role, turn in zip(roles, turns, strict=True)
    )


class RecordedEntries(NamedTuple):
    """How many calls were recorded, and how many of them without their prompts, because the store
    has not kept the requests."""

    calls: int
    without_request: int


def record_entries(
    entries: Iterable[tuple[str, Entry, EntryHits | None]], recorder: TraceRecorder
) -> RecordedEntries:
    """Record each of *entries*, given with their keys and hits, as the call that it was stored for
    and one for each hit: evenly from then until the last, since the store knows no more. They may
    come in any order: read the trace with ``--sort``."""
    calls = without = 0
    for key, entry, hits in entries:
        repeats = _times(entry.stored_at, hits)
        calls += 1 + len(repeats)
        sent, received = (entry.usage or (0, 0))[:2]
        request = json.loads(entry.request) if entry.request is not None else None
        if isinstance(request, dict):
            at = max(0.0, entry.stored_at - (entry.seconds or 0.0))
            messages = request.pop("messages", None)
            recorder.record_tokens(
                *(messages, request, entry.model, sent, received),
                at=at,
                seconds=entry.seconds,
                repeats=repeats,
            )
        else:
            without += 1 + len(repeats)
            known = (key, entry.model, entry.seconds)
            recorder(Event("stored", entry.stored_at, *known, usage=entry.usage))
            for at in repeats:
                recorder(Event("hit", at, *known, usage=entry.usage))
    return RecordedEntries(calls, without)


def _times(stored_at: float, hits: EntryHits | None) -> list[float]:
    """When an entry that was *stored_at* had its *hits*, about."""
    if hits is None or not hits.hits:
        return []
    step = max(0.0, hits.last - stored_at) / hits.hits
    return [stored_at + step * number for number in range(1, hits.hits + 1)]
