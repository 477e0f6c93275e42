"""``python -m benchmarks [NAME [FILE] ...]``: run all, or those named; a file is for the name
before it; ``--list`` names them."""

import os
import platform
import sqlite3
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

ALL = {
    "hits": "regimes:hits",
    "first-sight": "regimes:first_sight",
    "misses": "regimes:misses",
    "agents": "regimes:agents",
    "crowds": "regimes:crowds",
    "sqlite-hits": "sqlite:hits",
    "sqlite-processes": "sqlite:processes",
    "sqlite-tasks": "sqlite:tasks",
    "growth": "sqlite:growth",
    "million-memory": "scale:memory",
    "million-sqlite": "scale:sqlite",
    "redis": "redis_hit:redis",
    "memcached": "shared_stores:memcached",
    "tiered": "shared_stores:tiered",
    "memory": "footprint:memory",
    "imports": "footprint:imports",
    "threads": "stampede:threads",
    "tasks": "stampede:tasks",
    "tools": "tool_results:tools",
    "long-trace": "long_trace:long_trace",
    "langchain-lookups": "langchain_hit:lookups",
    "langchain-invokes": "langchain_hit:invokes",
    "http": "http_layer:http",
    "verified": "verified_hits:verified",
    "layers": "layers:layers",
    "langchain-stampede": "langchain_hit:stampede",
}


def main(names: list[str]) -> int:
    if names == ["--list"]:
        print("\n".join(ALL))
        return 0
    files = {
        before: name for before, name in pairwise(names) if name not in ALL and Path(name).is_file()
    }
    names = [name for name in names if name not in files.values()]
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known are {', '.join(ALL)}", file=sys.stderr)
        return 2
    print(
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()}"
        f" cores, load {os.getloadavg()[0]:.1f}"
    )
    print(
        "ratio to the first line of each table (median of interleaved rounds), then CPU"
        " microseconds a call (10th percentile)"
    )
    for name in names or ALL:
        module, function = ALL[name].split(":")
        getattr(import_module(f"benchmarks.{module}"), function)(
            *([files[name]] if name in files else [])
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
