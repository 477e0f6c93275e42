"""What probes do in another interpreter: ``python -m benchmarks.probes.steps CONTESTANT FOLDER URL
STEP ARGS``."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from benchmarks.probes.contestant import Bench, Cannot
from benchmarks.probes.contestants import load
from benchmarks.probes.expiry import numbered
from benchmarks.probes.keys import request, text_of

__all__: list[str] = []


def ask(bench: Bench, params: dict[str, Any]) -> Any:
    """The text of the answer to ``request(**params)``."""
    peer = bench.open()
    text = text_of(peer, request(**params))
    peer.settle()
    return text


def ask_many(bench: Bench, first: int, count: int, threads: int) -> list[str]:
    """Ask *count* requests from *first* on, by *threads*; what was raised."""
    try:
        peer = bench.open()
    except Cannot:
        raise
    except Exception as exc:  # noqa: BLE001
        return [f"{type(exc).__name__} at opening"]
    failures: list[str] = []

    def work(start: int) -> None:
        for number in range(first + start, first + count, threads):
            try:
                text_of(peer, numbered(number))
            except Cannot:
                raise
            except Exception as exc:  # noqa: BLE001
                failures.append(type(exc).__name__)

    if threads == 1 or bench.contestant.looped:
        for start in range(threads):
            work(start)
        peer.settle()
        return failures
    workers = [threading.Thread(target=work, args=(start,)) for start in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    peer.settle()
    return failures


def ask_until_killed(bench: Bench) -> None:
    """Ask request after request, and say which answer the caller has."""
    peer = bench.open()
    number = 0
    while True:
        text_of(peer, numbered(number))
        print(number, flush=True)
        number += 1


STEPS = {function.__name__: function for function in (ask, ask_many, ask_until_killed)}


def _raise_store_timeout() -> None:
    """Let the SQLite store wait as long for a lock as the tests allow on a busy machine, not as
    long as it does by default."""
    if seconds := os.environ.get("PROBES_STORE_TIMEOUT"):
        from llm_cache_mem.stores.sqlite import SQLiteStore

        (SQLiteStore.__init__.__kwdefaults__ or {})["lock_timeout"] = float(seconds)


def main(name: str, folder: str, url: str, step: str, args: str) -> int:
    _raise_store_timeout()
    bench = Bench(load(name), Path(folder), url=url)
    bench.given = json.loads(os.environ.get("PROBES_SERVERS", "{}"))
    try:
        result = STEPS[step](bench, *json.loads(args))
    finally:
        for contestant in bench.opened:
            contestant.close()
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:6]))
