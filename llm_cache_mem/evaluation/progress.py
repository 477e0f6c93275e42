"""Progress of a run: a bar on a terminal or in a notebook, where rich is installed; nothing in
logs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llm_cache_mem.accounting.render import dollars, saved
from llm_cache_mem.evaluation.run import Run

__all__ = ["progress_of", "text_of"]


@contextmanager
def progress_of(run: Run, total: int | None) -> Iterator[Callable[[], object]]:
    """A bar for *run* of *total* requests, None if that is unknown. What is yielded shows where the
    run is now."""
    rich = _rich() if run.settings.progress else None
    if rich is None:
        yield lambda: None
        return
    with rich as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.update(task, completed=run.done, description=text_of(run, total))


def text_of(run: Run, total: int | None) -> str:
    """The counts of *run*: hits, paid calls, dollars so far and, if each call has a known price,
    the dollars expected at the end."""
    usd, unpriced = run.budget.spent, run.budget.unpriced
    text = f"{run.hits:,} hits, {run.paid:,} paid, {saved(usd, unpriced, run.budget.calls)}"
    if total and run.done and usd and not unpriced:
        text += f" of about {dollars(usd / run.done * total)}"
    return text


def _rich() -> Any:
    """A bar of rich; None without rich, and where nothing is shown that moves."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ImportError:
        return None
    console = Console(stderr=True)
    if not (console.is_jupyter or (sys.stderr is not None and sys.stderr.isatty())):
        return None
    columns = (MofNCompleteColumn(), BarColumn(), "{task.description}", TimeRemainingColumn())
    return Progress(*columns, console=console)
