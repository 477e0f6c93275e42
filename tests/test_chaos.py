"""``make chaos`` finds its scenarios, and says what came of them."""

import subprocess
import sys

import chaos
from chaos import SCENARIOS, Outcome, Scenario, table


def test_every_scenario_is_a_test_that_exists() -> None:
    tests = [str(chaos.TESTS / scenario.test) for scenario in SCENARIOS]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    found = subprocess.run([*command, *tests], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]


def test_table_says_what_held() -> None:
    lines = list(
        table(
            [
                (Scenario("one", "a.py"), Outcome(held=1, seconds=2.4, said="0 lost")),
                (Scenario("many", "b.py"), Outcome(held=24, failed=1)),
                (Scenario("a server that is missing", "c.py"), Outcome(skipped=3)),
            ]
        )
    )
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]] == [
        ["one", "held: 0 lost", "2"],
        ["many", "24 of 25 held", "0"],
        ["a server that is missing", "skipped", "0"],
    ]
