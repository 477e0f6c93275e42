"""Read a trace as a stream: open the file, detect the format from its first line, and name every
bad line."""

import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from json.scanner import make_scanner
from pathlib import Path
from typing import Any, Final, Literal

from llm_cache_mem.bench import formats
from llm_cache_mem.bench.trace import Call, TraceError, in_order, sorted_by_arrival

__all__ = ["FORMATS", "OnError", "Trace", "open_trace"]

OnError = Literal["skip", "stop"]
FORMATS: Final = ("own", "mooncake", "ragpulse", "sessions")

_MAX_LINE_BYTES: Final = 256 << 20
_TELL_EVERY: Final = 100  # lines between updates of the position, for the progress bar
_GZIP: Final = b"\x1f\x8b"
_WINDOWS: Final = {"own": 4096, "mooncake": 0, "sessions": 0}  # lines that a call may be late
_RAGPULSE_FILES: Final = {
    "1_sys_prompt": "sys_prompt_id",
    "2_passages": "passage_id",
    "3_history": "history_id",
    "4_user_input": "user_input_id",
    "5_web_search": "web_search_id",
}

Parse = Callable[[Mapping[str, Any]], Sequence[Call]]


class Trace:
    """An open trace: iterate over it once for its calls, by arrival. *bad_lines* counts the lines
    skipped so far."""

    def __init__(
        self,
        name: str,
        format: str,
        lines: "_Lines",
        parse: Parse,
        on_error: OnError,
        *,
        sort: bool,
        key: str = "whole",
    ) -> None:
        self.name, self.format, self.key = name, format, key
        self.bad_lines = 0
        self.warn: Callable[[str], object] = lambda text: None
        self.size: int | None = None
        self.bytes_read = 0
        self._lines, self._parse, self._on_error = lines, parse, on_error
        self._sort = sort or format not in _WINDOWS

    def __iter__(self) -> Iterator[Call]:
        if self._sort:
            return sorted_by_arrival(self._calls())
        return in_order(self._calls(), window=_WINDOWS[self.format])

    def _calls(self) -> Iterator[Call]:
        parse, own = self._parse, self.format == "own"
        for line in self._lines:
            self.bytes_read = self._lines.end
            try:
                record = _decode(line.decode())
                if type(record) is not dict:
                    raise ValueError("not a JSON object")
                if own and record.get("format") == formats.HEADER:
                    continue
                calls = parse(record)
            except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as exc:
                self._report(exc)
                continue
            yield from calls

    def _report(self, exc: Exception) -> None:
        problem = f"{self._lines.place}: {_reason(exc)}"
        if self._on_error == "stop":
            raise TraceError(f"{problem} (--on-error skip continues)") from None
        self.bad_lines += 1
        self.warn(problem)


@contextmanager
def open_trace(
    path: str,
    *,
    format: str | None = None,
    on_error: OnError = "stop",
    key: str = "whole",
    sort: bool = False,
) -> Iterator[Trace]:
    """Open the trace at *path*: a file of JSON lines, gzipped or not, a RAGPulse folder, or ``-``
    for stdin.

    Args:
        format: One of FORMATS, or None to detect it from the first line.
        on_error: Whether a bad line stops the run or is skipped.
        key: The part of a RAGPulse request that is its key (RAGPULSE_KEYS).
        sort: Whether the calls may be in any order.

    Raises:
        TraceError: The trace is empty, invalid or of an unknown format.
        OSError: The file cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise TraceError(f"unknown format {format!r}; known are: {', '.join(FORMATS)}")
    with ExitStack() as stack:
        folder = Path(path)
        if path != "-" and folder.is_dir():
            yield _ragpulse(folder, key, on_error, stack)
            return
        lines = _Lines(path, stack)
        first = next(iter(lines), None)
        if first is None:
            raise TraceError(f"{path} is empty")
        format = format or _detect_format(first, lines.place)
        lines.again(first)
        if format == "ragpulse":
            raise TraceError(
                f"{path} is one of the files of RAGPulse: give the folder that contains them"
            )
        if key != "whole":
            raise TraceError(
                f"only RAGPulse separates the parts of a request: a trace of {format} has no key"
                f" {key!r}"
            )
        parsers: dict[str, Parse] = {
            "own": formats.own,
            "mooncake": formats.mooncake,
            "sessions": formats.sessions(),
        }
        trace = Trace(path, format, lines, parsers[format], on_error, sort=sort)
        trace.size = None if path == "-" else folder.stat().st_size
        yield trace


def _ragpulse(folder: Path, key: str, on_error: OnError, stack: ExitStack) -> Trace:
    if key not in formats.RAGPULSE_KEYS:
        raise TraceError(f"unknown key {key!r}; known are: {', '.join(formats.RAGPULSE_KEYS)}")
    lengths: dict[int, int] = {}
    for name, field in _RAGPULSE_FILES.items():
        lines = _Lines(_part(folder, name), stack)
        for line in lines:
            try:
                record = json.loads(line)
                block, length = record[field], record["token_length"]
                if type(block) is not int or type(length) is not int or length < 0:
                    raise ValueError("an id or a length is not an integer")
            except (ValueError, KeyError, TypeError, RecursionError) as exc:
                raise TraceError(f"{lines.place}: {_reason(exc)}") from None
            lengths[block] = length
    lines = _Lines(_part(folder, "0_trace"), stack)
    return Trace(
        str(folder), "ragpulse", lines, formats.RagPulse(lengths, key), on_error, sort=True, key=key
    )


def _part(folder: Path, name: str) -> str:
    for ending in (".jsonl.gz", ".jsonl"):
        if (file := folder / f"{name}{ending}").is_file():
            return str(file)
    raise TraceError(
        f"{folder} is a folder without {name}.jsonl: the only folders that are traces are those of"
        " RAGPulse"
    )


class _Lines:
    """The lines of *path*, uncompressed, without blank ones, and the place of the current one.
    TraceError for an endless line and for damaged gzip data."""

    def __init__(self, path: str, stack: ExitStack) -> None:
        # the stack closes it
        raw: Any = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))  # noqa: SIM115
        if not hasattr(raw, "peek"):
            raw = io.BufferedReader(raw)
        file = raw
        if raw.peek(2)[:2] == _GZIP:
            file = stack.enter_context(gzip.GzipFile(fileobj=raw))
        self._name = "stdin" if path == "-" else path
        self._readline: Callable[[int], bytes] = file.readline
        self._where: Callable[[], int] = raw.tell if path != "-" else int
        self._first: bytes | None = None
        self._number = 0
        self.end = 0  # about how many bytes of the file, compressed as they are, have been read

    def __iter__(self) -> Iterator[bytes]:
        if self._first is not None:
            yield self._first
        read, longest, tell_every = self._readline, _MAX_LINE_BYTES, _TELL_EVERY
        try:
            while line := read(longest):
                self._number += 1
                if not self._number % tell_every:
                    self.end = self._where()
                if line.isspace():
                    continue
                if len(line) == longest:
                    raise TraceError(f"{self.place}: line of more than {longest >> 20} MiB")
                yield line
        except (EOFError, gzip.BadGzipFile, OSError) as exc:
            raise TraceError(f"{self._name}:{self._number + 1}: {exc}") from None

    def again(self, line: bytes) -> None:
        """Start over with *line*, which was the first."""
        self._first = line

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self._name}:{self._number}"


_decoder = json.JSONDecoder()
# typeshed does not know that it accepts a decoder
_scan: Callable[[str, int], tuple[Any, int]] = make_scanner(_decoder)  # type: ignore[arg-type]


def _decode(text: str) -> Any:
    """Return ``json.loads(text)``, in half the time for a value that is alone on its line."""
    try:
        record, end = _scan(text, 0)
    except StopIteration:
        return _decoder.decode(text)  # raises with the reason
    return record if text[end:] == "\n" else _decoder.decode(text)


def _detect_format(line: bytes, place: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict):
        if record.get("format") == formats.HEADER or {"at", "key", "in", "out"} <= record.keys():
            return "own"
        if isinstance(record.get("hash_ids"), dict):
            return "ragpulse"
        if {"timestamp", "hash_ids"} <= record.keys():
            return "mooncake"
        if {"requests", "block_size"} <= record.keys():
            return "sessions"
        if {"key", "answer"} <= record.keys():
            raise TraceError(
                f"{place}: these are recordings, not a trace; llm-cache-mem bench record makes a"
                " trace of them"
            )
    raise TraceError(f"{place}: unknown format; known are: {', '.join(FORMATS)} (--format)")


def _reason(exc: Exception) -> str:
    """Return what is wrong with a bad line, without any of its content."""
    if isinstance(exc, json.JSONDecodeError):
        return f"not JSON: {exc.msg}, at character {exc.pos + 1}"
    if isinstance(exc, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(exc, KeyError):
        return f"no {exc.args[0]!r}"
    return str(exc) if type(exc) is ValueError else f"invalid ({type(exc).__name__})"
