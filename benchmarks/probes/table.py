"""The results as a page of Markdown: a table of probes by contestants, what was wrong below it, and
what could not be asked."""

import platform
import sqlite3
from collections import defaultdict
from typing import Any

from benchmarks.probes.contestants import CONTESTANTS, NOT_TRIED, OURS
from benchmarks.probes.registry import GROUPS, Probe
from benchmarks.probes.runner import BROKEN, CANNOT, RIGHT, WRONG

__all__ = ["counts", "page", "summary"]

SIGNS = {RIGHT: "✓", WRONG: "**✗**", CANNOT: "·", BROKEN: "?"}
COMMAND = "make bench-probes"

Results = dict[
    str, dict[str, Any]
]  # by contestant: configured, versions, and by probe [mark, fact]


def counts(result: dict[str, Any]) -> dict[str, int]:
    found = dict.fromkeys(SIGNS, 0)
    for mark, _ in result["verdicts"].values():
        found[mark] += 1
    return found


def page(probes: dict[str, Probe], results: Results) -> str:
    parts = [_head(), summary(results), _how(results)]
    parts += [
        _group(group, [each for each in probes.values() if each.group == group], results)
        for group in GROUPS
    ]
    parts += [_wrong(probes, results), _asked_not(probes, results), _sources(probes)]
    return "\n\n".join(parts) + "\n"


def _head() -> str:
    made_with = f"Python {platform.python_version()} with SQLite {sqlite3.sqlite_version}"
    return (
        "# Where caches return wrong answers\n\n"
        f"Made by `{COMMAND}` (`python -m benchmarks.probes`) on {made_with}; not by hand. "
        "Each probe asks one cache for one defect that caches of LLM answers are known for, "
        "in a process of its own, against a provider on loopback that counts its calls. "
        "✓ right, **✗** wrong, as observed in this run, · cannot be asked. "
        "Below: what exactly was wrong, and why something could not be asked. "
        "A ✓ says that the defect did not show here, not that it cannot."
    )


def summary(results: Results) -> str:
    """How often each was right."""
    lines = ["| cache | right | wrong | cannot be asked |", "|---|---|---|---|"]
    for name, result in results.items():
        found = counts(result)
        lines.append(f"| {name} | {found[RIGHT]} | {found[WRONG]} | {found[CANNOT]} |")
    return "\n".join(lines)


def _how(results: Results) -> str:
    lines = [
        "## How each was set up",
        "",
        "As its documentation has it; where nothing else is said, with its defaults.",
        "",
        "| | versions | set up |",
        "|---|---|---|",
    ]
    for name, result in results.items():
        found = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
        lines.append(f"| {name} | {found} | {result['configured']} |")
    if absent := [name for name in CONTESTANTS if name not in results]:
        lines += ["", f"Not in this run: {'; '.join(absent)}."]
    lines += [
        "",
        "Not tried: " + "; ".join(f"{name} ({why})" for name, why in NOT_TRIED.items()) + ".",
    ]
    return "\n".join(lines)


def _group(group: str, probes: list[Probe], results: Results) -> str:
    numbers = {name: str(number) for number, name in enumerate(results, 1)}
    legend = ", ".join(f"{number} {name}" for name, number in numbers.items())
    lines = [
        f"## {group}",
        "",
        f"{legend}.",
        "",
        "| | " + " | ".join(numbers.values()) + " |",
        "|---" * (len(numbers) + 1) + "|",
    ]
    for probe in probes:
        signs = [SIGNS[results[name]["verdicts"][probe.name][0]] for name in results]
        lines.append(f"| {probe.title} (`{probe.name}`) | " + " | ".join(signs) + " |")
    return "\n".join(lines)


def _wrong(probes: dict[str, Probe], results: Results) -> str:
    lines = ["## What was wrong"]
    for name, result in results.items():
        facts = [
            (each, fact)
            for each, (mark, fact) in result["verdicts"].items()
            if mark in (WRONG, BROKEN)
        ]
        lines += ["", f"### {name}", ""]
        if not facts:
            lines.append("Nothing." if name in OURS else "Nothing that was asked.")
        lines += [f"- `{each}`, {probes[each].title}: {_one_line(fact)}." for each, fact in facts]
    return "\n".join(lines)


def _asked_not(probes: dict[str, Probe], results: Results) -> str:
    lines = ["## What could not be asked"]
    for name, result in results.items():
        why: dict[str, list[str]] = defaultdict(list)
        for each, (mark, fact) in result["verdicts"].items():
            if mark == CANNOT:
                why[_one_line(fact)].append(f"`{each}`")
        lines += [
            "",
            f"{name}: "
            + (
                "; ".join(f"{fact} ({', '.join(names)})" for fact, names in why.items())
                or "nothing"
            )
            + ".",
        ]
    return "\n".join(lines)


def _sources(probes: dict[str, Probe]) -> str:
    lines = [
        "## Where the probes come from",
        "",
        (
            "Issues and reports of the named projects; many more of the kind were found by running"
            " them."
        ),
        "",
    ]
    lines += [f"- `{probe.name}`: {probe.source}" for probe in probes.values()]
    return "\n".join(lines)


def _one_line(fact: str) -> str:
    return " ".join(fact.split()).replace("|", "\\|")
