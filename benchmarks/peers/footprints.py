"""What entries weigh: resident bytes each, the pause of a full garbage collection, and what a hit
costs among many against among few.

Each contestant in a process of its own: ``python -m benchmarks.peers.footprints NUMBER ENTRIES``
prints what it found as JSON.
"""

import gc
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks.footprint import rss
from benchmarks.harness import Work, compare
from benchmarks.peers import in_memory, on_disk
from benchmarks.peers.contestant import Absent, Contestant, Place, finished, opened, variant
from benchmarks.peers.tables import Cell, Column, Row, Table
from benchmarks.peers.timed import FULL, Scale, folder
from benchmarks.workload import PARAMS, VALUE

__all__ = ["growth_on_disk", "weigh"]

FEW = 1_000
Weighed = tuple[str, dict[str, Any], type[Contestant]]  # name, what its process found, what it is
KINDS = tuple(
    kind for kind in in_memory.ALL if not kind.reference and kind is not in_memory.OursAsync
)


def weigh(scale: Scale = FULL) -> list[Table]:
    """Memory, and growth in memory: both are of the same processes."""
    found: list[Weighed] = []
    absent: list[Absent] = []
    for number, kind in enumerate(KINDS):
        print(f"  {kind.name}: {scale.entries:,} entries", flush=True)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.peers.footprints",
            str(number),
            str(scale.entries),
            str(scale.rounds),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{kind.name} was not weighed: {done.stderr[-2000:]}")
        report = json.loads(done.stdout.splitlines()[-1])
        absent += [Absent(*named) for named in report["absent"]]
        if "bytes" in report:
            found.append((kind.versioned(), report, kind))
    return [_memory(found, absent, scale), _growth(found, absent, scale)]


def _memory(found: Sequence[Weighed], absent: Sequence[Absent], scale: Scale) -> Table:
    columns = [Column("memory, an entry", "B"), Column("full collection", "ms")]
    rows = [
        Row(name, _cells(report, found[0][1], "bytes", "pause"), **_said(kind))
        for name, report, kind in found
    ]
    return Table("memory", columns, rows, absent, {"entries": scale.entries})


def _growth(found: Sequence[Weighed], absent: Sequence[Absent], scale: Scale) -> Table:
    rows = [
        Row(
            name,
            [*_cells(report, found[0][1], "few", "many"), Cell(report["growth"])],
            **_said(kind),
        )
        for name, report, kind in found
    ]
    return Table(
        "growth", _columns(scale.entries), rows, absent, {"few": FEW, "entries": scale.entries}
    )


def _columns(entries: int) -> list[Column]:
    return [
        Column(f"among {FEW:,}", "µs"),
        Column(f"among {entries:,}", "µs"),
        Column("growth", "×"),
    ]


def _cells(report: dict[str, Any], ours: dict[str, Any], *names: str) -> list[Cell | None]:
    return [Cell(report[name], report[name] / ours[name]) for name in names]


def _said(kind: type[Contestant]) -> dict[str, Any]:
    return {"spares": kind.spares, "key": kind.key, "value": kind.value}


def growth_on_disk(scale: Scale = FULL) -> Table:
    """How a hit on a file grows with the entries in it."""
    rows: list[Row] = []
    reports: list[dict[str, Any]] = []
    with folder() as path, ExitStack() as stack:
        few, absent = opened(on_disk.ALL, Place(2 * scale.on_disk, path / "few"))
        many, _ = opened(on_disk.ALL, Place(2 * scale.on_disk, path / "many"))
        for contestant in (*few, *many):
            stack.callback(contestant.close)
        for among_few, among_many in zip(few, many, strict=True):
            print(f"  {among_few.name}: {scale.on_disk:,} entries", flush=True)
            reports.append(_grown(among_few, among_many, scale.on_disk, scale.rounds))
            cells = [*_cells(reports[-1], reports[0], "few", "many"), Cell(reports[-1]["growth"])]
            rows.append(Row(among_few.versioned(), cells, **_said(type(among_few))))
    return Table(
        "growth-sqlite",
        _columns(scale.on_disk),
        rows,
        absent,
        {"few": FEW, "entries": scale.on_disk},
    )


# -- In a process of its own


def main(number: int, entries: int, rounds: int) -> None:
    """Print what the contestant *number* weighs."""
    kind = KINDS[number]
    with tempfile.TemporaryDirectory() as path:
        (contestant, *_), absent = _alone(kind, entries, Path(path, "many"))
        if absent:
            print(json.dumps({"absent": absent}))
            return
        assert contestant is not None
        _fill(contestant, 0, FEW)
        before, pause = rss(), _pause()
        _fill(contestant, FEW, entries + FEW)
        report: dict[str, Any] = {"bytes": (rss() - before) / entries, "absent": []}
        report["pause"] = (_pause() - pause) * 1e3
        (small, *_), _ = _alone(kind, 2 * FEW, Path(path, "few"))
        assert small is not None
        report |= _grown(small, contestant, entries, rounds, filled=True)
        print(json.dumps(report))


def _alone(
    kind: type[Contestant], entries: int, path: Path
) -> tuple[list[Contestant | None], list[Absent]]:
    working, absent = opened([kind], Place(entries + 2 * FEW, path))
    return [*working, None], absent


def _pause() -> float:
    """Seconds of a full collection; three, of which the least."""

    def once() -> float:
        began = process_time()
        gc.collect()
        return process_time() - began

    return min(once() for _ in range(3))


def _questions(first: int, last: int) -> Iterator[dict[str, Any]]:
    for number in range(first, last):
        yield {"messages": [{"role": "user", "content": f"question {number}"}], **PARAMS}


def _fill(contestant: Contestant, first: int, last: int) -> None:
    for number, asked in enumerate(_questions(first, last), first):
        answer = contestant.answered({**VALUE, "id": f"msg_{number:024d}"})
        finished(contestant, contestant.put(contestant.asked(asked), answer))


def _grown(
    few: Contestant, many: Contestant, entries: int, rounds: int, *, filled: bool = False
) -> dict[str, float]:
    """Microseconds of a hit among FEW and among *entries*, and their ratio, round by round."""
    few_entries = min(FEW, entries)
    _fill(few, 0, few_entries)
    if not filled:
        _fill(many, 0, entries)
    rng = random.Random(7)
    count = 300

    def gets(contestant: Contestant, among: int) -> Callable[[], Sequence[Work]]:
        def prepare() -> Sequence[Work]:
            numbers = [rng.randrange(among) for _ in range(count)]
            asked = [contestant.asked(next(_questions(number, number + 1))) for number in numbers]
            return [lambda a=a: contestant.get(a) for a in asked]  # type: ignore[misc]

        return prepare

    pairs = [variant(few, gets(few, few_entries), count), variant(many, gets(many, entries), count)]
    small, large = compare(
        [pairs[0]._replace(name="few"), pairs[1]._replace(name="many")], rounds, process_time
    )
    return {"few": small.micros, "many": large.micros, "growth": large.ratio}


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
