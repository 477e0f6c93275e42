"""What it weighs: bytes an entry in memory, and the CPU time of importing the library."""

import gc
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.workload import PARAMS, VALUE
from llm_cache_mem import LLMCache

__all__ = ["imports", "memory", "rss"]

ENTRIES = 50_000


def memory() -> None:
    """Resident bytes an entry, with the 1.4 KB value, at 50,000 entries: in a process of its
    own."""
    code = "from benchmarks.footprint import resident; resident()"
    used = float(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
    )
    print(
        f"\nmemory an entry, {ENTRIES:,} entries of 1.4 KB\n  {used:,.0f} bytes   (must be <="
        f" 2,500: {'ok' if used <= 2500 else 'NO'})"
    )


def resident() -> None:
    """Print the resident bytes an entry of this process."""
    cache = LLMCache(max_size=None)
    _fill(cache, 0, 1000)
    before = rss()
    _fill(cache, 1000, ENTRIES)
    print((rss() - before) / (ENTRIES - 1000))


def _fill(cache: LLMCache, first: int, last: int) -> None:
    for number in range(first, last):
        cache.put(
            [{"role": "user", "content": f"question {number}"}],
            {**VALUE, "id": f"msg_{number:024d}"},
            **PARAMS,
        )


def rss() -> int:
    """Resident bytes of this process, once its garbage is gone."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def imports() -> None:
    """CPU milliseconds of ``import llm_cache_mem`` over a bare interpreter: the median of 40 pairs,
    in turn."""
    extra = [(_cpu("import llm_cache_mem") - _cpu("pass")) * 1000 for _ in range(40)]
    middle = median(extra)
    print(
        f"\nimport llm_cache_mem over a bare interpreter\n  {middle:.1f} ms CPU, at least"
        f" {min(extra):.1f}   (must be <= 60: {'ok' if middle <= 60 else 'NO'})"
    )


def _cpu(code: str) -> float:
    compiled = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }  # as after an installation
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=compiled)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
