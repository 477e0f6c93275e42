"""``make chaos``: break stores, servers, processes and streams on purpose, and print what came of it.

Drives the fault scenarios of the test suite on this machine alone, on loopback and in temporary
folders: a few minutes, or with ``--full``, which takes the long form of each test that has one,
half an hour.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = ["SCENARIOS", "Outcome", "Scenario", "main", "table"]

TESTS = Path(__file__).resolve().parent
_LONGEST = 100  # of what a test said, to fit the table


class Scenario(NamedTuple):
    """What is broken, and the *test* that breaks it and judges what follows."""

    broken: str
    test: str


SCENARIOS = (
    Scenario("SQLite: writers are killed", "stores/test_sqlite_processes.py::test_kill_9_loses_no_acknowledged_write"),
    Scenario("SQLite: checkpoints against writers", "stores/test_sqlite_processes.py::test_checkpoints_under_load_lose_no_row"),
    Scenario("SQLite: each system call fails once", "stores/test_sqlite_faults.py::test_only_store_errors_escape_and_the_next_try_works"),
    Scenario("SQLite: flipped bits", "stores/test_sqlite_faults.py::test_flipped_bits_never_change_an_answer"),
    Scenario("SQLite: a truncated file", "stores/test_sqlite_faults.py::test_a_truncated_file_never_answers_wrong"),
    Scenario("SQLite: a full disk", "stores/test_sqlite_faults.py::test_a_full_disk_loses_nothing_and_works_again"),
    Scenario("SQLite: the write lock is held", "stores/test_sqlite_faults.py::test_a_held_write_lock_costs_three_waits_and_no_hit"),
    Scenario("SQLite: a file of a newer version", "stores/test_sqlite_faults.py::test_a_newer_schema_is_left_alone_and_the_program_runs"),
    Scenario("recordings: writers are killed", "stores/test_jsonl.py::test_kill_9_while_writing_loses_no_acknowledged_write"),
    Scenario("Redis: paused, killed, full, locked, read-only", "stores/test_redis_faults.py::test_an_outage_costs_callers_little_and_hits_are_back_soon"),
    Scenario("Redis: wrong replies of all kinds", "stores/test_redis_faults.py::test_a_caller_gets_the_right_answer_in_time"),
    Scenario("Redis: each socket call fails once", "stores/test_redis_faults.py::test_a_failing_operation_does_not_fail_the_caller"),
    Scenario("Redis: failover by Sentinel", "stores/test_redis_failover.py"),
    Scenario("Redis, Memcached: replies that end early", "stores/test_partial_replies.py"),
    Scenario("Redis: a fleet while it fails", "stores/test_fleet_faults.py"),
    Scenario("Memcached: paused, killed", "stores/test_memcached_faults.py::test_a_vanished_server_costs_neither_answers_nor_time"),
    Scenario("Memcached: wrong replies of all kinds", "stores/test_memcached_faults.py::test_a_server_that_lies_is_a_miss"),
    Scenario("Memcached: each socket call fails once", "stores/test_memcached_faults.py::test_whatever_fails_at_whatever_point_the_caller_is_served"),
    Scenario("fleet: leaders are killed", "stores/test_fleet_processes.py::test_kill_9_of_a_leader_costs_one_call_and_no_hang"),
    Scenario("fleet: cancelled tasks", "engine/test_lease_storms.py::test_a_storm_of_cancellations"),
    Scenario("fleet: forks amid leases", "engine/test_lease_storms.py::test_forks_amid_threads_that_hold_leases"),
    Scenario("all stores: interrupts at any moment", "stores/test_interrupts.py"),
    Scenario("stored bytes: hostile and damaged", "values/test_hostile.py::test_hostile_bytes_are_misses"),
    Scenario("providers: broken answers", "http/test_faulty_provider.py"),
    Scenario("providers: recorded streams cut at every byte", "http/test_streams_whole.py::test_a_stream_cut_at_any_byte_is_not_whole"),
    Scenario("providers: connections cut in streams", "http/test_cut_connections.py"),
    Scenario("clients: tasks cancelled in streams", "http/test_storms.py"),
    Scenario("gateway: slow and broken clients", "gateway/test_faults.py"),
)  # fmt: skip


class Outcome(NamedTuple):
    """What came of the tests of a scenario; *said* is the last line that the last of them printed."""

    held: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    said: str = ""

    def __str__(self) -> str:
        tried = self.held + self.failed
        if not tried:
            return "skipped" if self.skipped else "not run"
        text = f"{self.held} of {tried} held" if tried > 1 else "held" if self.held else "FAILED"
        short = len(self.said) <= _LONGEST and tried == 1
        return f"{text}: {self.said}" if self.said and short else text


class LongForms:
    """A plugin of pytest that takes the long form alone of a test that has one."""

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        long = {item.function for item in items if item.get_closest_marker("slow")}
        items[:] = [
            item for item in items if item.function not in long or item.get_closest_marker("slow")
        ]


class Results:
    """A plugin of pytest that notes the outcome of each scenario."""

    def __init__(self) -> None:
        self.outcomes: dict[Scenario, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the report to its scenario."""
        scenario = next(one for one in SCENARIOS if _is_of(report.nodeid, one))
        before = self.outcomes.get(scenario, Outcome())
        after = before._replace(seconds=before.seconds + report.duration)
        if report.failed:
            after = after._replace(failed=after.failed + 1)
        elif report.skipped:
            after = after._replace(skipped=after.skipped + 1)
        elif report.when == "call":
            lines = [line for line in report.capstdout.splitlines() if not line.startswith("seed")]
            after = after._replace(held=after.held + 1, said=lines[-1] if lines else "")
        self.outcomes[scenario] = after


def _is_of(nodeid: str, scenario: Scenario) -> bool:
    name = nodeid.removeprefix("tests/")
    return name.startswith(scenario.test) and name[len(scenario.test) :][:1] in ("", "[", ":")


def table(outcomes: Iterable[tuple[Scenario, Outcome]]) -> Iterator[str]:
    """The outcomes as lines of a table in Markdown."""
    rows = [
        ("broken on purpose", "result", "s"),
        *((one.broken, str(outcome), f"{outcome.seconds:.0f}") for one, outcome in outcomes),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        yield f"| {row[0]:<{widths[0]}} | {row[1]:<{widths[1]}} | {row[2]:>{widths[2]}} |"
        if number == 0:
            yield f"|{'-' * (widths[0] + 2)}|{'-' * (widths[1] + 2)}|{'-' * (widths[2] + 1)}:|"


def main(arguments: list[str]) -> int:
    """Run the scenarios and print the table; 1 if one of them did not hold."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the long forms: half an hour")
    parser.add_argument("--only", metavar="TEXT", default="", help="scenarios whose name has it")
    options = parser.parse_args(arguments)
    chosen = [one for one in SCENARIOS if options.only.lower() in one.broken.lower()]
    if not chosen:
        parser.error(f"no scenario has {options.only!r} in its name")
    results = Results()
    tests = [str(TESTS / one.test) for one in chosen]
    quiet = ["-qq", "-rN", "--tb=short", "-p", "no:cacheprovider"]
    form = ["-m", "" if options.full else "not slow"]
    plugins = [results, LongForms()] if options.full else [results]
    status = pytest.main([*quiet, *form, *tests], plugins=plugins)
    print("\n" + "\n".join(table((one, results.outcomes.get(one, Outcome())) for one in chosen)))
    return 0 if status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
