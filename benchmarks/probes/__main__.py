"""``python -m benchmarks.probes [--only NAME]... [--probe NAME]... [--write]``: ask every
contestant, and print or write the page.

Results are kept in build/probes/, so that one contestant can be asked again, several at once, and
the page written of all.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.probes.contestants import CONTESTANTS
from benchmarks.probes.runner import BROKEN, RIGHT, all_probes
from benchmarks.probes.table import page, summary

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "probes"
PAGE = ROOT / "benchmarks" / "PROBES.md"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=list(CONTESTANTS),
        metavar="NAME",
        help=f"one of {', '.join(CONTESTANTS)}",
    )
    parser.add_argument(
        "--probe",
        action="append",
        choices=list(all_probes()),
        metavar="PROBE",
        help="one of the probes' names",
    )
    parser.add_argument(
        "--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)} of all results so far"
    )
    parser.add_argument("--no-run", action="store_true", help="ask nobody: only --write")
    chosen = parser.parse_args(arguments)
    for name in [] if chosen.no_run else chosen.only or CONTESTANTS:
        result = _ask(name, chosen.probe or list(all_probes()), _load(name))
        if result:
            KEPT.mkdir(parents=True, exist_ok=True)
            (KEPT / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    results = {name: _load(name) for name in CONTESTANTS}
    whole = {
        name: result
        for name, result in results.items()
        if set(result.get("verdicts", ())) >= set(all_probes())
    }
    print(summary(whole))
    if chosen.write:
        PAGE.write_text(page(all_probes(), whole), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}: {len(whole)} of {len(CONTESTANTS)} contestants")
    return 0


def _load(name: str) -> dict[str, Any]:
    """What is kept of *name*, by the probes that there are today."""
    path = KEPT / f"{name}.json"
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if kept:
        kept["verdicts"] = {
            each: kept["verdicts"][each] for each in all_probes() if each in kept["verdicts"]
        }
    return kept


def _ask(name: str, probes: list[str], result: dict[str, Any]) -> dict[str, Any]:
    """*result* with what *name* says to *probes*, asked in another interpreter; what is not right
    is shown."""
    print(name, flush=True)
    command = [sys.executable, "-m", "benchmarks.probes.runner", name, *probes]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "missing" in said:
                print(f"  not installed: {said['missing']}")
                return {}
            if "probe" in said:
                mark, fact = said["verdict"]
                result["verdicts"][said["probe"]] = [mark, fact]
                if mark != RIGHT:
                    print(
                        f"  {said['probe']}: {mark}, {fact if mark == BROKEN else fact[:120]}"
                        f" ({said['seconds']} s)",
                        flush=True,
                    )
            else:
                result = {**said, "verdicts": result.get("verdicts", {})}
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
