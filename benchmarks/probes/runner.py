"""One contestant through probes, each in a forked process of its own: ``python -m
benchmarks.probes.runner CONTESTANT PROBE...``.

The library is imported once and the process forked for each probe, so that a crash, a hang or a
changed setting is one probe's result and no more. Prints one JSON line for each probe.
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.probes.contestant import Bench, Cannot, Clock, Contestant
from benchmarks.probes.forkserver import Spare
from benchmarks.probes.keys import request
from benchmarks.probes.registry import Probe

__all__ = ["BROKEN", "CANNOT", "RIGHT", "WRONG", "Verdict", "all_probes", "judge"]

RIGHT, WRONG, CANNOT, BROKEN = "right", "wrong", "cannot", "broken"


class Verdict(NamedTuple):
    """*fact*: what was wrong, or why it could not be asked. "broken" is a fault of the probe or of
    the contestant's class here."""

    mark: str
    fact: str = ""


def all_probes() -> dict[str, Probe]:
    from benchmarks.probes import answers, concurrency, expiry, keys, storing  # noqa: F401 - they register theirs
    from benchmarks.probes.registry import PROBES

    return PROBES


def judge(probe: Probe, bench: Bench) -> Verdict:
    """What *probe* says of the contestant of *bench*, in this process."""
    try:
        fact = probe.ask(bench)
    except Cannot as why:
        return Verdict(CANNOT, str(why))
    except Exception as exc:  # noqa: BLE001 - reported as such
        return Verdict(BROKEN, "".join(traceback.format_exception(exc))[-2000:])
    return Verdict(RIGHT) if fact is None else Verdict(WRONG, fact)


def _child(
    probe: Probe, contestant: type[Contestant], clock: Clock, folder: Path, result: Path
) -> None:
    os.setsid()
    log = os.open(folder.parent / "log", os.O_CREAT | os.O_WRONLY, 0o600)
    for number in (1, 2):
        os.dup2(log, number)
    os.chdir(folder.parent)
    from benchmarks.probes import steps

    bench = Bench(contestant, folder, clock=clock, spare=Spare(steps.main))
    verdict = judge(probe, bench)
    result.write_text(json.dumps(verdict), encoding="utf-8")
    with contextlib.suppress(Exception):
        bench.close()


def _wait(child: int, seconds: float) -> int | None:
    """The child's status, or None if it had to be killed, with all that it started."""
    deadline = time.monotonic() + seconds
    status = None
    while status is None and time.monotonic() < deadline:
        done, code = os.waitpid(child, os.WNOHANG)
        status = code if done else None
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status


def isolated(probe: Probe, contestant: type[Contestant], clock: Clock) -> Verdict:
    """The verdict of *probe* in a process of its own."""
    home = Path(tempfile.mkdtemp(prefix="probe-"))
    folder, result = home / "store", home / "result"
    folder.mkdir()
    try:
        child = os.fork()
        if child == 0:
            try:
                _child(probe, contestant, clock, folder, result)
            finally:
                os._exit(0)
        status = _wait(child, probe.seconds)
        if result.exists() and (text := result.read_text(encoding="utf-8")):
            return Verdict(*json.loads(text))
        if status is None:
            return Verdict(WRONG, f"it hangs: no end after {probe.seconds:g} s")
        return Verdict(WRONG, f"the process dies (status {os.waitstatus_to_exitcode(status)})")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _rehearse(bench: Bench) -> str:
    """The names of what the contestant imports when it is used."""
    before = set(sys.modules)
    with contextlib.suppress(Exception):
        peer = bench.open()
        for use in (
            lambda: peer.ask(**request()),
            lambda: bench.run(peer.aask(**request())),
            lambda: list(peer.stream(**request())),
        ):
            for _ in range(2):
                with contextlib.suppress(Exception):
                    use()
    return json.dumps([name for name in sys.modules if name not in before])


def import_late_parts(contestant: type[Contestant], clock: Clock) -> None:
    """Import what *contestant* imports when it is used, so that not each probe's process does: some
    take seconds."""
    rehearsal = Probe("rehearsal", "", "", "", _rehearse, 60.0)
    mark, names = isolated(rehearsal, contestant, clock)
    for name in json.loads(names) if mark == WRONG and names.startswith("[") else ():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def versions(contestant: type[Contestant]) -> dict[str, str]:
    found = {}
    for name in contestant.packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main(name: str, wanted: list[str]) -> int:
    clock = Clock()
    clock.install()  # before the contestant is imported, which may take time.time by name
    probes = all_probes()
    from benchmarks.probes.contestants import load

    try:
        contestant = load(name)
    except ImportError as exc:
        print(json.dumps({"missing": str(exc)}), flush=True)
        return 0
    about: dict[str, Any] = {"configured": contestant.configured, "versions": versions(contestant)}
    print(json.dumps(about), flush=True)
    import_late_parts(contestant, clock)
    if len(threading.enumerate()) > 1:
        print(
            f"{name} starts threads when it is imported: {threading.enumerate()}", file=sys.stderr
        )
    for each in wanted or list(probes):
        began = time.monotonic()
        verdict = isolated(probes[each], contestant, clock)
        print(
            json.dumps(
                {"probe": each, "verdict": verdict, "seconds": round(time.monotonic() - began, 1)}
            ),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
