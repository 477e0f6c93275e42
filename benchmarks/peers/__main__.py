"""``python -m benchmarks.peers [PART ...]``: run the comparisons, or those named, and write down
what came out; ``--list`` names them.

Written are ``benchmarks/peers/results.json``, and from it ``docs/benchmarks.md``,
``docs/benchmarks.svg``; ``--render`` writes these again from the JSON. Parts that were not run stay as they were. ``--quick``: fewer rounds and entries.
"""

import os
import platform
import sqlite3
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.peers import (
    captions,
    concurrency,
    footprints,
    langchain_models,
    page,
    stampedes,
    timed,
)
from benchmarks.peers.chart import draw
from benchmarks.peers.tables import Table, load, save
from benchmarks.peers.timed import FULL, QUICK, Scale

__all__ = ["PARTS", "main", "run", "write"]

Maker = Callable[[Scale], Table | list[Table]]
PARTS: dict[str, Sequence[Maker]] = {
    "hits": (timed.warm, timed.fresh, timed.first_sight),
    "misses": (timed.misses,),
    "sqlite": (timed.sqlite,),
    "redis": (timed.redis,),
    "memory": (footprints.weigh,),
    "growth": (footprints.growth_on_disk,),
    "threads": (concurrency.threads, concurrency.threads_on_disk),
    "stampede": (stampedes.stampede,),
    "langchain": (langchain_models.invokes,),
}
ORDER = (
    "hits-fresh",
    "hits-warm",
    "hits-first",
    "misses",
    "sqlite",
    "redis",
    "langchain",
    "stampede",
    "threads",
    "threads-sqlite",
    "memory",
    "growth",
    "growth-sqlite",
)
CHART = "docs/benchmarks.svg"


def run(name: str, scale: Scale = FULL) -> list[Table]:
    """The tables of the part *name*, each with what it ran on."""
    tables: list[Table] = []
    for make in PARTS[name]:
        print(f"{name}: {(make.__doc__ or '').strip()}", flush=True)
        load_before, began = os.getloadavg()[0], time.monotonic()
        made = make(scale)
        seconds = time.monotonic() - began
        for table in made if isinstance(made, list) else [made]:
            finished = replace(
                table,
                seconds=round(seconds, 1),
                environment=_environment(name, table, load_before, scale),
            )
            tables.append(finished)
            print(
                f"\n{captions.said(table).title}\n{page.table_text(finished)}\n{finished.environment}\n",
                flush=True,
            )
    return tables


def _environment(part: str, table: Table, load_before: float, scale: Scale) -> str:
    gil = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else ", no GIL"
    optimized = (
        "PGO"
        if "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
        else "no PGO"
    )
    parts = [
        f"Python {platform.python_version()} ({optimized}{gil})",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    if table.name == "redis":
        parts.append(_said("redis-server", "--version").partition("sha=")[0].strip())
    parts.append(f"{os.cpu_count()} cores, load {load_before:.1f}")
    commit = _said("git", "rev-parse", "--short", "HEAD")
    parts += [f"commit {commit}"] if commit else []
    parts.append(
        f"{datetime.now(UTC):%Y-%m-%d}, by {captions.COMMAND} ARGS={part}, {scale.rounds} rounds"
    )
    return "; ".join(parts)


def _said(*command: str) -> str:
    """What *command* prints; "" if there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def write(tables: Sequence[Table], root: Path) -> None:
    """Put *tables* in the place of those of the same name at *root*, and make the page and the
    chart from all of them."""
    results = root / "benchmarks/peers/results.json"
    merged = {table.name: table for table in (*load(results), *tables)}
    ordered = [merged[name] for name in ORDER if name in merged]
    save(ordered, results)
    shown = load(results)
    (root / "docs/benchmarks.md").write_text(page.page(shown), encoding="utf-8")
    if {"hits-fresh", "misses"} <= set(merged):
        draw(shown, root / CHART)


def main(names: Sequence[str]) -> int:
    if list(names) == ["--list"]:
        print("\n".join(PARTS))
        return 0
    options = {name for name in names if name in ("--render", "--quick")}
    names = [name for name in names if name not in options]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    warnings.simplefilter(
        "ignore"
    )  # LangChain's community package warns of its own end at every hit
    root = Path(__file__).resolve().parents[2]
    if "--render" in options:
        write((), root)
    else:
        for name in names or PARTS:
            write(
                run(name, QUICK if "--quick" in options else FULL), root
            )  # each as soon as it is there
        print(f"written: docs/benchmarks.md, {CHART}, benchmarks/peers/results.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
