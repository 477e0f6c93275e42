"""Run the demo: start a model, run two sessions with a restart in between, and show what the cache
saved."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any, NamedTuple

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
except ModuleNotFoundError as exc:
    if exc.name != "rich":
        raise
    raise ImportError(
        "the demo needs rich: pip install 'llm-cache-mem[demo]'", name="rich"
    ) from None

from examples.demo.config import SessionConfig
from examples.demo.report import Summary, phases_table, summarise, totals_table
from llm_cache_mem.testing.model_server.endpoint import MODELS
from llm_cache_mem.testing.model_server.launch import (
    INSTALL_HINT,
    WHICH,
    ServerFailed,
    start_server,
)

__all__ = ["main", "run_demo"]

_SESSION = "examples.demo.session"  # which imports both SDKs; this process need not
_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}


class _SessionFailed(Exception):
    """A session ended early; the message says how, without secrets."""


class _Model(NamedTuple):
    """The models by provider, the local server's URL if there is one, and the price to show."""

    models: dict[str, str]
    url: str | None
    price: tuple[float, float] | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo. Return 0 if every cached answer equals the one paid for, 1 if not or if the
    demo failed, 130 after Ctrl-C."""
    options = _parser().parse_args(argv)
    console = Console(stderr=options.json, highlight=False)
    missing = [name for name in _KEYS if find_spec(name) is None]
    if missing:
        console.print(
            f"The demo needs {' and '.join(missing)}: pip install 'llm-cache-mem[demo]'",
            markup=False,
        )
        return 1
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        return run_demo(options, console)
    except (ServerFailed, _SessionFailed) as exc:
        console.print(f"[red]The demo failed:[/] {exc}")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m examples.demo",
        description=(
            "Ask a small real model on this machine through the cache, with the provider SDKs and a"
            " restart in the middle."
        ),
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="ask the real providers; needs ANTHROPIC_API_KEY or OPENAI_API_KEY; costs cents",
    )
    parser.add_argument(
        "--server", choices=WHICH, default="auto", help="which local server (default: auto)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="about how long the model may work in total (default: 60)",
    )
    parser.add_argument(
        "--price",
        type=float,
        nargs=2,
        default=(3.0, 15.0),
        metavar=("IN", "OUT"),
        help="dollars per million tokens to show for the free local model",
    )
    parser.add_argument(
        "--anthropic-model", default=MODELS["anthropic"], help="with --live (default: %(default)s)"
    )
    parser.add_argument(
        "--openai-model", default=MODELS["openai"], help="with --live (default: %(default)s)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the summary as JSON on stdout, everything else on stderr",
    )
    return parser


def run_demo(options: argparse.Namespace, console: Console) -> int:
    """Run the demo with parsed *options*, printing to *console*; return the exit status."""
    began = perf_counter()
    with ExitStack() as stack:
        # Before the first output: a demo stopped at its first line must leave nothing behind.
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="llm-cache-mem-demo-", ignore_cleanup_errors=True)
        )
        model = (
            _live_model(options, console) if options.live else _local_model(options, console, stack)
        )
        config = SessionConfig(
            1,
            model.models,
            model.url,
            str(Path(folder) / "cache.db"),
            model.price,
            options.seconds,
            1.2 * options.seconds,
        )
        records = _run_sessions(config, console)
    if not records:
        raise _SessionFailed("no question was asked")
    summary = summarise(records)
    _show(summary, model, console, perf_counter() - began)
    if options.json:
        print(json.dumps(summary.as_dict(), indent=2))  # noqa: T201  # what was asked for
    return 1 if summary.answers_different else 0


def _live_model(options: argparse.Namespace, console: Console) -> _Model:
    named = {"anthropic": options.anthropic_model, "openai": options.openai_model}
    models = {provider: named[provider] for provider, key in _KEYS.items() if os.environ.get(key)}
    if not models:
        raise ServerFailed(f"--live needs {' or '.join(_KEYS.values())} in the environment")
    console.print(f"Asking the real provider: {', '.join(models.values())}.")
    return _Model(models, None, None)


def _local_model(options: argparse.Namespace, console: Console, stack: ExitStack) -> _Model:
    server, why_not = start_server(options.server)
    stack.callback(server.close)
    if why_not is not None:
        console.print(f"[yellow]The real model did not start ({why_not}); {INSTALL_HINT}.[/]")
    console.print(f"The model: {server.title}.")
    console.print("It is asked on loopback, with the anthropic and openai SDKs.")
    return _Model(dict.fromkeys(_KEYS, server.model), server.url, tuple(options.price))


def _run_sessions(config: SessionConfig, console: Console) -> list[dict[str, Any]]:
    """Run two processes, one after the other, that share only the database file."""
    records: list[dict[str, Any]] = []
    began = perf_counter()
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        handle = _MessageHandler(progress, records)
        for number in (1, 2):
            if number == 2:
                progress.console.print("The process has ended; a new one opens the same database.")
                limit = max(5.0, 1.5 * config.seconds - (perf_counter() - began))
                config = config._replace(number=2, scale=handle.scale, limit=limit)
            with _process(config) as lines:
                for line in lines:
                    handle(json.loads(line))
    return records


class _MessageHandler:
    """Turns the messages of a session into progress bars, notes and records."""

    def __init__(self, progress: Progress, records: list[dict[str, Any]]) -> None:
        self._progress = progress
        self._records = records
        self._task = progress.add_task("starting", total=None, visible=False)
        self.scale: float | None = None

    def __call__(self, message: dict[str, Any]) -> None:
        if "phase" in message:
            self._task = self._progress.add_task(message["phase"], total=message["total"])
        elif "record" in message or "tick" in message:
            self._progress.advance(self._task)
        if "record" in message:
            self._records.append(message["record"])
        if "scale" in message:
            self.scale = message["scale"]
            if self.scale is not None and self.scale < 1:
                self._progress.console.print(
                    f"The model is slow here: asking {self.scale:.0%} of the questions."
                )
        if "note" in message:
            self._progress.console.print(f"[dim]{message['note']}[/]")
        if "error" in message:
            raise _SessionFailed(message["error"])


@contextmanager
def _process(config: SessionConfig) -> Iterator[Iterator[str]]:
    """Run a session in its own process and yield its output lines; the process ends with the
    block."""
    child = subprocess.Popen(
        [sys.executable, "-m", _SESSION],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which ends the child
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(config._asdict()))
        child.stdin.close()
        yield iter(child.stdout)
        if child.wait() != 0:
            raise _SessionFailed(f"a session ended with status {child.returncode}")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _show(summary: Summary, model: _Model, console: Console, seconds: float) -> None:
    console.print()
    console.print(phases_table(summary))
    price = "dollars" if model.price is None else "dollars, as if [1]"
    console.print(totals_table(summary, price))
    if model.price is not None:
        paid_in, paid_out = model.price
        console.print(
            f"[1] The local model is free; shown as if it cost ${paid_in:g} in and ${paid_out:g}"
            " out per million tokens."
        )
    if summary.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.skipped.items())
        console.print(f"Skipped (paid for, returned to the caller, not stored): {reasons}.")
    if (example := summary.example) is not None:
        console.print(f"For example: {example.question} -> {example.answer}", markup=False)
        times = (
            f"{_milliseconds(example.paid_ms)} to pay for, {_milliseconds(example.hit_ms)} from the"
            " database in a new process"
        )
        console.print(f"  {times}.")
    console.print(
        "p50: "
        + "; ".join(f"{name} {_milliseconds(value)}" for name, value in summary.p50_ms.items())
        + "."
    )
    console.print(_comparison(summary))
    console.print(f"{seconds:.0f} s in total.")


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.3f} ms"


def _comparison(summary: Summary) -> str:
    if summary.answers_different:
        return (
            f"[red]{summary.answers_different} of {summary.answers_compared} answers from the cache"
            " differ from what was paid for.[/]"
        )
    return (
        f"All {summary.answers_compared} answers from the cache equal the ones paid for, ids and"
        " usage included."
    )
