"""``python -m benchmarks long-trace [FILE]``: how long ``bench`` takes for a million calls, of FILE
or of a trace that is made for it.

``python -m benchmarks.long_trace FILE [CALLS]`` writes that trace, which is the same each time.

It is shaped like Mooncake's conversations and written in their format: some two dozen blocks a
prompt in about three runs, answers of 343 tokens, conversations that go on behind what was said,
some behind a common system prompt. One call in twenty repeats an earlier one, half of these within
seconds, so that calls meet in flight.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["lines", "long_trace"]

_BLOCK = 512  # tokens
_A_SECOND = 10  # calls
_SYSTEM_PROMPTS = 50
_LONGEST = 120  # blocks; a conversation that has come so far is over


def lines(calls: int, seed: int = 7) -> Iterator[str]:
    """So many calls by arrival, each a line of JSON."""
    random = Random(seed)  # the same each time is what is wanted
    systems = [
        list(range(number * 100, number * 100 + random.randint(1, 12)))
        for number in range(_SYSTEM_PROMPTS)
    ]
    fresh, at = _SYSTEM_PROMPTS * 100, 0.0
    talks: deque[list[int]] = deque(maxlen=600)
    sent: deque[dict[str, Any]] = deque(maxlen=20_000)
    for _ in range(calls):
        at += random.expovariate(_A_SECOND)
        if sent and random.random() < 0.05:
            call = sent[-random.randint(1, min(len(sent), 20 if random.random() < 0.5 else 20_000))]
        else:
            goes_on = len(talks) > 100 and random.random() < 0.6
            place = random.randrange(len(talks)) if goes_on else 0
            before = (
                talks[place] if goes_on else random.choice(systems) if random.random() < 0.5 else []
            )
            more = min(_LONGEST, 1 + int(random.expovariate(1 / 12)))
            blocks = [*before, *range(fresh, fresh + more)]
            fresh += more
            call = {
                "input_length": len(blocks) * _BLOCK - random.randrange(_BLOCK),
                "output_length": 1 + int(random.expovariate(1 / 342)),
            }
            call["hash_ids"] = blocks
            if len(blocks) < _LONGEST:
                if goes_on:
                    talks[place] = blocks[:-1]  # the last block was not full: what follows fills it
                else:
                    talks.append(blocks[:-1])
            elif goes_on:
                del talks[place]
        sent.append(call)
        yield json.dumps({"timestamp": round(at * 1000), **call})


def long_trace(file: str | None = None) -> None:
    """Seconds of CPU that ``llm-cache-mem bench`` takes, in a process of its own, from its start to
    its end."""
    with tempfile.TemporaryDirectory() as folder:
        if file is None:
            main(file := str(Path(folder) / "million.jsonl"))
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "llm_cache_mem", "bench", "--json", file],
            check=True,
            capture_output=True,
        )
        after = os.times()
    calls = json.loads(done.stdout)["trace"]["calls"]
    seconds = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    a_million = seconds * 1_000_000 / calls
    print(
        f"\na trace of {calls:,} calls, read and simulated\n  {seconds:.1f} s of CPU   (must be <="
        " 60 for a million: ",
        end="",
    )
    print("ok)" if a_million <= 60 else "NO)")


def main(file: str, calls: int = 1_000_000) -> None:
    # closed below
    opened = gzip.open(file, "wt", compresslevel=1) if file.endswith(".gz") else open(file, "w")  # noqa: SIM115
    with opened as out:
        out.writelines(f"{line}\n" for line in lines(calls))


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python -m benchmarks.long_trace FILE [CALLS]")
    main(sys.argv[1], *map(int, sys.argv[2:]))
