"""Write the measured line coverage into the README's badge, or check that the badge still tells it
(``--check``)."""

import re
import subprocess
import sys
from pathlib import Path

__all__ = ["main", "with_badge"]

README = Path(__file__).resolve().parents[1] / "README.md"
BADGE = re.compile(r"badge/coverage-(\d+)%25")
TOLERANCE = 1  # in percent: what runs differ by between versions of Python


def with_badge(readme: str, percent: int) -> str:
    """*readme* with *percent* in its badge. ValueError if it has no badge."""
    changed, found = BADGE.subn(f"badge/coverage-{percent}%25", readme)
    if not found:
        raise ValueError("README.md has no coverage badge")
    return changed


def main(arguments: list[str]) -> str | None:
    """What is wrong, for ``sys.exit``; None if nothing is."""
    report = [sys.executable, "-m", "coverage", "report", "--format=total"]
    measured = int(subprocess.run(report, check=True, capture_output=True, text=True).stdout)
    readme = README.read_text(encoding="utf-8")
    if "--check" not in arguments:
        README.write_text(with_badge(readme, measured), encoding="utf-8")
        return None
    badge = BADGE.search(readme)
    written = int(badge[1]) if badge else 0
    if abs(measured - written) <= TOLERANCE:
        return None
    return f"README.md says {written} % coverage, measured are {measured} %: run make coverage"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
