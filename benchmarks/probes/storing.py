"""Probes of what lies on a disk or a server: restarts, damage, other writers, code in the store,
and servers that do not answer."""

import logging
import os
import pickle
import resource
import signal
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.probes.contestant import Bench, Cannot
from benchmarks.probes.expiry import numbered
from benchmarks.probes.keys import request, text_of
from benchmarks.probes.provider import Reply
from benchmarks.probes.registry import probe
from benchmarks.probes.tampering import rewrite_values, values_with

__all__: list[str] = []

GROUP = "The store"
IN_MEMORY = "keeps nothing outside of the process"
STALL = 5.0


def _file(bench: Bench) -> None:
    bench.needs("file", IN_MEMORY if not bench.contestant.shared else "keeps no files")


def _stored(bench: Bench, asked: dict[str, Any], *, text: str = "") -> Any:
    """The answer to *asked*, which another process has stored and which is seen to be there."""
    if text:
        bench.provider.script = lambda number, body: Reply(
            (text if number == 1 else f"answer {number}",)
        )
    first = bench.elsewhere("ask", asked).result()
    return first


@probe(
    GROUP,
    "a restart keeps the hits, with another hash seed too",
    "instructor: namespace by uuid4; hash() in keys",
    seconds=300,
)
def restart(bench: Bench) -> str | None:
    if not bench.contestant.shared:
        raise Cannot(IN_MEMORY)
    tools = [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "g",
                "parameters": {"type": "object", "properties": {}},
            },
        }
    ]
    first = bench.elsewhere("ask", {"tools": tools, "user": "u", "stop": "x"}, seed=1).result()
    again = bench.elsewhere("ask", {"tools": tools, "user": "u", "stop": "x"}, seed=2).result()
    return None if again == first else "after a restart every call is made again"


@probe(
    GROUP,
    "files with answers are readable by their owner only",
    "umask; diskcache PR 359; reliability 1.6 and 6",
)
def permissions(bench: Bench) -> str | None:
    _file(bench)
    before = os.umask(0o022)
    try:
        peer = bench.open()
        text_of(peer, request())
        peer.settle()
        peer.close()
    finally:
        os.umask(before)
    open_files = [
        path
        for path in _files(bench.folder)
        if stat.S_IMODE(path.stat().st_mode) & 0o077 and _reachable(path, bench.folder)
    ]
    if not open_files:
        return None
    path = max(open_files, key=lambda each: each.stat().st_size)
    return (
        f"{path.name if len(path.name) < 20 else '*' + path.suffix} is"
        f" {stat.S_IMODE(path.stat().st_mode):04o}"
    )


def _reachable(path: Path, folder: Path) -> bool:
    """Whether others may enter every directory between *folder* and *path*."""
    return all(parent.stat().st_mode & 0o011 for parent in path.parents if folder in parent.parents)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Evil:
    """Unpickled, it runs code: here, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._marker),)


@probe(
    GROUP,
    "who can write to the store cannot run code",
    "CVE-2025-69872 (diskcache); reliability 1.1 and 6",
    seconds=150,
)
def planted_code(bench: Bench) -> str | None:
    """Every stored value is replaced by a pickle that makes a directory when it is read."""
    _file(bench)
    _stored(bench, {})
    marker = bench.folder.parent / f"{bench.folder.name}.marker"
    evil = pickle.dumps(Evil(marker))
    if not rewrite_values(bench.folder, lambda value: evil, as_pickle=True):
        raise Cannot("nothing stored was found in its files")
    with suppress(RuntimeError):
        bench.elsewhere("ask", {}).result()
    return "the planted pickle ran" if marker.exists() else None


DOSE = "Give 10 mg, not more. Answer 1."


@probe(
    GROUP,
    "a stored answer that changed on the disk is not served",
    "reliability, finding 5 and section 6",
    seconds=150,
)
def changed_value(bench: Bench) -> str | None:
    _file(bench)
    if _stored(bench, {}, text=DOSE) != DOSE:
        raise Cannot("answers in other words")
    if not rewrite_values(
        bench.folder, lambda value: value.replace(b"10 mg", b"90 mg"), only=b"10 mg"
    ):
        raise Cannot("its files do not show the answer")
    return _served_damaged(bench, "90 mg", '"90 mg" is served for "10 mg"')


def _served_damaged(bench: Bench, sign: str, wrong: str) -> str | None:
    try:
        text = str(bench.elsewhere("ask", {}).result())
    except RuntimeError:
        return "the call fails"
    return wrong if sign in text else None


@probe(
    GROUP,
    "a stored answer that was cut short is not served",
    "LangChain, diskcache; reliability 6",
    seconds=150,
)
def truncated_value(bench: Bench) -> str | None:
    _file(bench)
    whole = "word " * 20_000 + "the end"
    if _stored(bench, {}, text=whole) != whole:
        raise Cannot("answers in other words")
    if not rewrite_values(
        bench.folder, lambda value: value[: len(value) // 2], only=b"word word word"
    ):
        raise Cannot("its files do not show the answer")
    try:
        text = str(bench.elsewhere("ask", {}).result())
    except RuntimeError:
        return "the call fails"
    if text.startswith("answer"):
        return None
    return "the beginning of it is served as the answer" if text != whole else None


@probe(
    GROUP,
    "a damaged file costs a call, not an error",
    "LangChain, LiteLLM, diskcache, GPTCache; reliability 6",
    seconds=150,
)
def damaged_file(bench: Bench) -> str | None:
    _file(bench)
    _stored(bench, {})
    damaged = 0
    for path in _files(bench.folder):
        if path.stat().st_size > 0:
            path.write_bytes(b"This is not what it was. " * 400)
            damaged += 1
    if not damaged:
        raise Cannot("no files were found")
    try:
        text = bench.elsewhere("ask", {}).result()
    except RuntimeError:
        return "the call fails"
    return None if str(text).startswith("answer") else f"it answers {str(text)[:30]!r}"


def _databases(folder: Path) -> Iterator[Path]:
    for path in _files(folder):
        with path.open("rb") as file:
            if file.read(15) == b"SQLite format 3":
                yield path


@probe(
    GROUP,
    "a locked database costs a call and little time",
    "LangChain, diskcache; lm-eval #796; reliability 6",
)
def locked_file(bench: Bench) -> str | None:
    _file(bench)
    _stored(bench, {})
    databases = list(_databases(bench.folder))
    if not databases:
        raise Cannot("has no database")
    locks = [sqlite3.connect(path, isolation_level=None, timeout=5) for path in databases]
    try:
        for lock in locks:
            lock.execute("BEGIN EXCLUSIVE")
        return _answers_soon(bench, lambda: bench.open(), [request(seed=1), request(seed=2)])
    finally:
        for lock in locks:
            lock.close()


def _answers_soon(
    bench: Bench, open_peer: Callable[[], Any], requests: list[dict[str, Any]]
) -> str | None:
    """Ask *requests*: right if each is answered, in STALL seconds at most."""
    slowest = 0.0
    began = time.monotonic()
    try:
        peer = open_peer()
    except Cannot:
        raise
    except Exception as exc:  # noqa: BLE001
        return f"opening it raises {type(exc).__name__}"
    slowest = time.monotonic() - began
    for asked in requests:
        began = time.monotonic()
        try:
            text = text_of(peer, asked)
        except Cannot:
            raise
        except Exception as exc:  # noqa: BLE001
            return f"the call raises {type(exc).__name__} after {time.monotonic() - began:.0f} s"
        slowest = max(slowest, time.monotonic() - began)
        if "answer" not in str(text):
            return "the call has no answer"
    return f"a call takes {slowest:.0f} s" if slowest > STALL else None


@probe(GROUP, "a full disk costs a call, not an error", "LangChain, diskcache; reliability 6")
def full_disk(bench: Bench) -> str | None:
    """Files cannot grow past what they have: writes fail as on a full disk."""
    _file(bench)
    bench.provider.script = lambda number, body: Reply((f"answer {number} " + "x" * 300_000,))
    peer = bench.open()
    text_of(peer, request())
    peer.settle()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        return _answers_soon(bench, lambda: peer, [request(seed=number) for number in range(3)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@probe(GROUP, "a file that is deleted under it costs a call, not an error", "reliability 3a")
def deleted_file(bench: Bench) -> str | None:
    _file(bench)
    peer = bench.open()
    text_of(peer, request())
    peer.settle()
    for path in _files(bench.folder):
        path.unlink()
    return _answers_soon(bench, lambda: peer, [request(), request(seed=1)])


def _writers(bench: Bench, processes: int, threads: int, each: int) -> str | None:
    _file(bench)
    runs = [
        bench.elsewhere("ask_many", number * each, each, threads) for number in range(processes)
    ]
    failures = [failure for run in runs for failure in run.result()]
    if failures:
        return (
            f"{len(failures)} of {processes * each} calls raise {', '.join(sorted(set(failures)))}"
        )
    calls = bench.provider.calls
    peer = bench.open()
    for number in range(processes * each):
        text_of(peer, numbered(number))
    lost = bench.provider.calls - calls
    return f"{lost} of {processes * each} answers are lost" if lost else None


@probe(GROUP, "many threads may write one file", "LangChain #23904; reliability 3a", seconds=150)
def many_threads(bench: Bench) -> str | None:
    if bench.contestant.looped:
        raise Cannot("is for one event loop")
    return _writers(bench, 1, 8, 160)


@probe(
    GROUP,
    "many processes may write one file",
    "hishel #432, lm-eval #796; reliability 3a",
    seconds=150,
)
def many_processes(bench: Bench) -> str | None:
    return _writers(bench, 3, 2, 40)


@probe(
    GROUP,
    "kill -9 loses no answer that a caller has",
    "GPTCache; reliability 3a and 6",
    seconds=150,
)
def killed(bench: Bench, answers: int = 25) -> str | None:
    _file(bench)
    run = bench.elsewhere("ask_until_killed")
    acknowledged = -1
    while acknowledged < answers:
        line = run.line()
        if not line:
            raise Cannot("the process ended by itself")
        acknowledged = int(line)
    run.kill()
    calls = bench.provider.calls
    try:
        failures = bench.elsewhere("ask_many", 0, acknowledged + 1, 1).result()
    except RuntimeError:
        return "it cannot be opened any more"
    if failures:
        return f"the calls after it raise {failures[0]}"
    lost = bench.provider.calls - calls
    return f"{lost} of {acknowledged + 1} answers are lost" if lost else None


SECRET = "sk-canary-5f1d2e"


@probe(
    GROUP,
    "an API key is neither in the store nor in a log",
    "LiteLLM #29414, honcho #866; reliability 1.6",
)
def secrets(bench: Bench) -> str | None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.name}: {record.getMessage()}")

    root, handler = logging.getLogger(), Keep(logging.DEBUG)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        peer = bench.open()
        for _ in range(2):
            text_of(peer, request(api_key=SECRET))
        peer.settle()
        peer.close()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    logged = sorted({line.split(":")[0] for line in lines if SECRET in line})
    kept = [path.name for path in _files(bench.folder) if SECRET.encode() in path.read_bytes()]
    kept += [path.name for path in values_with(bench.folder, SECRET.encode())]
    facts = [f"it is in {kept[0]}"] if kept else []
    facts += [f"it is in the debug log of {', '.join(logged)}"] if logged else []
    return "; ".join(facts) or None


def _without_server(bench: Bench, how: str) -> str | None:
    bench.needs("server", "has no server")
    server = bench.redis()
    peer = bench.open()
    text_of(peer, request())
    getattr(server, how)()
    try:
        return _answers_soon(bench, lambda: peer, [request(seed=number) for number in range(2)])
    finally:
        server.go_on()


@probe(
    GROUP,
    "a server that is down costs no error and little time",
    "BetterDB, LangChain; reliability 3e and 6",
    seconds=90,
)
def server_down(bench: Bench) -> str | None:
    return _without_server(bench, "kill")


@probe(
    GROUP,
    "a server that hangs costs no error and little time",
    "LangChain; redis-py #4082; reliability, finding 3",
    seconds=90,
)
def server_hangs(bench: Bench) -> str | None:
    return _without_server(bench, "pause")
