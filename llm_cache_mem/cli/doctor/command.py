"""``llm-cache-mem doctor URL``: whether a store is fit to be a cache, and what to change if not."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Annotated, Any

import typer

from llm_cache_mem._util.terminal import visible
from llm_cache_mem.cli.arguments import AsJson, CommandFailed, Url, url_of
from llm_cache_mem.cli.doctor.finding import FAIL, OK, WARN, Finding, ok, warn
from llm_cache_mem.cli.output import count_of, print_json
from llm_cache_mem.cli.store import READABLE_WITH, UNREADABLE, Reader, open_for_changes
from llm_cache_mem.diagnostics.redaction import Redaction
from llm_cache_mem.errors import StoreError
from llm_cache_mem.keys import digest
from llm_cache_mem.stores import Store
from llm_cache_mem.stores.base import LeasingStore, keeps_recordings
from llm_cache_mem.stores.jsonl.lines import has_secret
from llm_cache_mem.stores.writers import writers
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["check", "doctor"]

_STYLE = {OK: "green", WARN: "yellow", FAIL: "bold red"}
_STATUS = {OK: 0, WARN: 1, FAIL: 2}
_SLOW_SECONDS = 0.05
_LOOKED_AT = 10_000  # entries
_KEEP_SECONDS = 60.0  # that what it writes would stay, if it were killed


def doctor(
    url: Url = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of round trips to time.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Check a store.

    Connection, speed, permissions, memory policy, clock and entries. Exit status 0: OK; 1:
    warnings; 2: unusable.

    Writes and removes entries in a namespace of its own; recordings are only read.
    """
    findings = check(url_of(url), rounds)
    worst = max(findings, key=lambda finding: _STATUS[finding.level]).level
    if as_json:
        print_json({"verdict": worst, "findings": [finding._asdict() for finding in findings]})
    else:
        _show(findings)
    raise typer.Exit(_STATUS[worst])


def check(url: str, rounds: int) -> list[Finding]:
    """What is found out about the store of *url*, with *rounds* round trips timed."""
    findings: list[Finding] = []
    try:
        findings.extend(_findings(url, rounds))
    except CommandFailed as exc:
        findings.append(
            Finding(
                FAIL,
                "use",
                str(exc),
                "check that the store exists, and check its URL and permissions",
            )
        )
    return findings


def _show(findings: list[Finding]) -> None:
    from rich.text import Text

    from llm_cache_mem._util.tables import out

    console, width = out(), max(len(finding.topic) for finding in findings)
    for level, topic, text, advice in findings:
        said = f"  {visible(topic):<{width}}  {visible(text)}"
        console.print(Text.assemble((f"{level.upper():<4}", _STYLE[level]), said), soft_wrap=True)
        if advice:
            console.print(Text(f"{'':<{width + 6}}  -> {visible(advice)}"), soft_wrap=True)


def _findings(url: str, rounds: int) -> Iterator[Finding]:
    with closing(Reader(url)) as reader:
        by_server = reader.scheme.on_server
        yield ok("store", reader.name)
        yield from _file(reader.store)
        if keeps_recordings(reader.store):  # in a repository, where a write would be a change
            yield from _reads(reader.store, rounds)
            yield _leasing(reader.store)
            yield from _entries(reader, by_server=by_server)
            return
    # At a clock of 0 nothing has expired, so that a file sweeps nothing away.
    with open_for_changes(url, clock=time.time if by_server else lambda: 0.0) as store:
        for finding in _round_trips(store, rounds):
            yield finding
            if finding.level == FAIL:
                return
    with open_for_changes(url) as store:
        yield from _server(url, store)
        yield _leasing(store)
    with closing(Reader(url)) as reader:
        yield from _entries(reader, by_server=by_server)


def _file(store: Any) -> Iterator[Finding]:
    path = getattr(store, "path", None)
    if isinstance(path, str):
        yield _writers(path)
    if type(store).__name__ == "SQLiteStore":
        from llm_cache_mem.cli.doctor.sqlite import findings as of_sqlite

        yield from of_sqlite(store)


def _writers(path: str) -> Finding:
    files = [name for name in (path, f"{path}-wal", f"{path}-shm") if os.path.exists(name)]
    found = sorted({reason for name in files for reason in writers(name)})
    if not found:
        return ok("writers", "only this user can change it")
    return warn(
        "writers",
        "; ".join(found),
        "they could change answers: remove their write permission, or move the file",
    )


def _server(url: str, store: Any) -> Iterator[Finding]:
    kind = type(store).__name__
    if kind == "RedisStore":
        from llm_cache_mem.cli.doctor.redis import findings as of_redis

        yield from of_redis(store, url)
    elif kind == "MemcachedStore":
        from llm_cache_mem.cli.doctor.memcached import findings as of_memcached

        yield from of_memcached(url)


def _own_key() -> str:
    return digest.prefix("llm-cache-mem-doctor", "doctor") + secrets.token_hex(32)


def _way_in(reason: str) -> str:
    """What to do about a store that could not be asked: one that has answered is not to be
    started."""
    if "NOAUTH" in reason or "WRONGPASS" in reason:
        return (
            "it answers, but rejects the user or password: redis://user:password@host, or"
            " redis://:password@host without a user"
        )
    if "Refused" in reason:
        return (
            "it answers, but refuses: check that the database in the URL exists, and the"
            " permissions of the user"
        )
    return "start it, and check the host, port and password"


def _round_trips(store: Store, rounds: int) -> Iterator[Finding]:
    """Put, get and delete under a key of one's own, and time them."""
    key, value = _own_key(), "x" * 1500
    times: dict[str, list[float]] = {"put": [], "get": [], "delete": []}
    try:
        store.get(key)
    except StoreError as exc:
        yield Finding(FAIL, "reach", exc.reason, _way_in(exc.reason))
        return
    doing = "put"

    def timed(what: str, work: Callable[[], Any]) -> Any:
        nonlocal doing
        doing, began = what, time.perf_counter()
        found = work()
        times[what].append(time.perf_counter() - began)
        return found

    try:
        for _ in range(rounds):
            now = time.time()
            timed(
                "put", partial(store.put, key, Entry(Payload.of(value), now, now + _KEEP_SECONDS))
            )
            found = timed("get", partial(store.get, key))
            if found is None or found.payload.decode() != value:
                yield Finding(
                    FAIL,
                    "reading",
                    "an entry written a moment ago is not there",
                    "check its memory and its clock",
                )
                return
            timed("delete", partial(store.delete, key))
    except StoreError as exc:
        advice = (
            "give this user the permission, or free space; until then caches go on without the"
            " store"
        )
        yield Finding(
            FAIL,
            {"put": "writing", "get": "reading", "delete": "deleting"}[doing],
            exc.reason,
            advice,
        )
        return
    finally:
        _forget(store, key)
    yield ok("rights", "this user can write, read and delete entries")
    yield from _speed(times, rounds)


def _reads(store: Store, rounds: int) -> Iterator[Finding]:
    """Time reads of a store in a file, and find out without a write whether there could be one."""
    key, path = _own_key(), getattr(store, "path", "")
    times: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        store.get(key)
        times.append(time.perf_counter() - began)
    if all(os.access(each, os.W_OK) for each in (path, os.path.dirname(path))):
        yield ok("rights", "this user can read and write it")
    else:
        yield warn("rights", "this user can only read it", "recording needs write permission")
    yield from _speed({"get": times}, rounds)


def _speed(times: dict[str, list[float]], rounds: int) -> Iterator[Finding]:
    for what, taken in times.items():
        half, most = _quantile(taken, 0.5), _quantile(taken, 0.99)
        text = f"p50 {half * 1000:.2f} ms, p99 {most * 1000:.2f} ms of {rounds}"
        advice = "move it closer, or put memory in front: backend='tiered:memory,...'"
        yield ok(what, text) if half < _SLOW_SECONDS else warn(what, text, advice)


def _forget(store: Store, key: str) -> None:
    with suppress(StoreError):
        store.delete(key)


def _quantile(taken: list[float], share: float) -> float:
    return sorted(taken)[min(len(taken) - 1, int(len(taken) * share))]


def _leasing(store: Store) -> Finding:
    if not isinstance(store, LeasingStore):
        return ok("leases", "none: processes cannot share calls through this store")
    key, token = _own_key(), secrets.token_hex(16)
    try:
        taken, again = store.lease(key, token, 2.0), store.lease(key, secrets.token_hex(16), 2.0)
        store.release(key, token)
    except StoreError as exc:
        return warn(
            "leases",
            exc.reason,
            "without this permission coalesce='fleet' makes a call in each process",
        )
    if not taken or again:
        return warn(
            "leases", "two callers could get the same lease", "do not use coalesce='fleet' here"
        )
    return ok("leases", "coalesce='fleet' works through it")


def _entries(reader: Reader, *, by_server: bool) -> Iterator[Finding]:
    """What is stored: by whom it can be read, and whether its times are possible."""
    now, count, newer, future, expired = time.time(), 0, 0, 0, 0
    secret, redaction = 0, Redaction()
    try:
        for found in reader.entries():
            count += 1
            newer += found.parts.schema > digest.SCHEMA
            future += found.entry.stored_at > now + 60
            expired += found.entry.is_expired(now)
            secret += found.entry.request is not None and has_secret(
                found.key, found.entry, redaction
            )
            if count == _LOOKED_AT:
                break
    except CommandFailed as exc:
        yield ok("entries", f"they cannot be listed: {exc}")
        return
    some = "at least " if count == _LOOKED_AT else ""
    yield ok("entries", f"{some}{count:,}, {expired:,} of them expired")
    if expired > 1000 and expired > count / 2 and not by_server:
        yield warn(
            "expired",
            f"{expired:,} of {count:,} entries have expired",
            "llm-cache-mem prune removes them",
        )
    if reader.unreadable:
        text = f"{count_of(reader.unreadable)} cannot be read: {UNREADABLE}"
        yield warn("unreadable", text, f"{READABLE_WITH}; damaged ones go when they are read")
    if secret:
        yield warn(
            "secrets",
            f"{secret:,} entries with their requests hold what looks like a secret",
            "change those secrets; record or ask again, now that they are redacted",
        )
    if newer:
        yield warn("schema", f"{newer:,} keys are of a newer version", "upgrade this installation")
    if future:
        yield warn(
            "times",
            f"{future:,} entries were stored in the future",
            "set the clocks of those who write here: such entries are misses",
        )
