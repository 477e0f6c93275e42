"""``llm-cache-mem run``: a program under the cache, without a change to it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer

from llm_cache_mem.accounting.render import dollars
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.cli.arguments import (
    DEFAULT_STORE,
    FAILED,
    MISUSED,
    STORE_HELP,
    CommandFailed,
    seconds_in,
)
from llm_cache_mem.cli.run_gateway import gateway
from llm_cache_mem.errors import StoreError
from llm_cache_mem.installation.child import Savings, environment_for, savings_in
from llm_cache_mem.options import check_mode
from llm_cache_mem.stores.urls import URL_VARIABLE, locate

__all__ = ["run"]

_MOST_ENTRIES: Final = 100_000  # as in a gateway
_NOT_FOUND: Final = 127
_PASSED_ON: Final = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")


def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The program, after --.")],
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar=URL_VARIABLE,
            help=STORE_HELP,
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="on, refresh, or replay: make no call and fail on a miss."),
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Lifetime of entries: 1h, 7d; none for no limit."),
    ] = None,
    through_gateway: Annotated[
        bool,
        typer.Option(
            "--gateway", help="For programs in any language: start a gateway and set base URLs."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not print the savings.")] = False,
) -> None:
    """Run a Python program with every provider SDK cached.

    Python processes that it starts are covered too.

    Nothing in the program changes. What was saved is printed to stderr at the end; the exit status
    is that of the program.

    Examples:
      llm-cache-mem run -- python agent.py
      llm-cache-mem run --mode replay --backend ./answers.db -- pytest
      llm-cache-mem run --gateway -- node app.mjs
    """
    settings: dict[str, Any] = {"backend": _absolute(backend or DEFAULT_STORE)}
    if mode is not None:
        try:
            settings["mode"] = check_mode(mode, "--mode")
        except ValueError as exc:
            raise CommandFailed(str(exc), MISUSED) from None
    if ttl is not None:
        settings["ttl_seconds"] = None if ttl.lower() == "none" else seconds_in(ttl)
    _check(settings)
    program = shutil.which(command[0])
    if program is None:
        raise CommandFailed(f"{command[0]}: no such program", _NOT_FOUND)
    if through_gateway:
        given = {"backend": settings["backend"], "mode": mode, "ttl": ttl}
        given = {name: value for name, value in given.items() if value is not None}
        with gateway(given, os.environ) as running:
            status = _wait([program, *command[1:]], {**os.environ, **running.environment})
            saved = running.savings()
        _tell(quiet, saved, settings["backend"], program)
        raise typer.Exit(status)
    with tempfile.TemporaryDirectory(prefix="llm-cache-mem-") as folder:
        report = Path(folder) / "report.jsonl"
        report.touch()
        status = _wait([program, *command[1:]], environment_for(os.environ, settings, report))
        with report.open(encoding="utf-8", errors="replace") as lines:
            saved = savings_in(lines)
    _tell(quiet, saved, settings["backend"], program)
    went_past = mode == "replay" and not saved.processes
    raise typer.Exit(FAILED if went_past and status == 0 else status)


def _check(settings: dict[str, Any]) -> None:
    """Bound the number of entries as the gateway does; CommandFailed if no cache can be opened with
    the *settings*."""
    try:
        if locate(settings["backend"])[0].bounded:
            settings["max_size"] = _MOST_ENTRIES
        LLMCache(**settings).close()
    except (ValueError, ImportError, StoreError) as exc:
        raise CommandFailed(str(exc), MISUSED) from None


def _tell(quiet: bool, saved: Savings, backend: str, program: str) -> None:
    if not quiet:
        sys.stderr.write(f"llm-cache-mem: {_summary(saved, backend, program)}\n")


def _absolute(backend: str) -> str:
    """*backend* as it is meant here, for processes that change their folder."""
    scheme, separator, path = backend.partition("://")
    if separator and scheme in ("sqlite", "jsonl"):
        name = path.removeprefix("/") if path.startswith("/") else path
        return f"{scheme}:///{os.path.abspath(os.path.expanduser(name))}"
    if not separator and backend != "memory" and not backend.startswith("tiered:"):
        return os.path.abspath(os.path.expanduser(backend))
    return backend


def _wait(command: list[str], environment: dict[str, str]) -> int:
    """Run *command* to its end, handing on the signals that this process gets; its exit status, 128
    more than the signal if one ended it.

    Ctrl-C reaches the program from the terminal, as it reaches this process.
    """
    process = subprocess.Popen(command, env=environment)

    def hand_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    handlers = {
        number: signal.signal(number, hand_on)
        for name in _PASSED_ON
        if (number := getattr(signal, name, None)) is not None
    }
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    handlers[signal.SIGINT] = signal.signal(
        signal.SIGINT, _leave_to_program if at_terminal else hand_on
    )
    try:
        status = process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status


def _leave_to_program(number: int, frame: FrameType | None) -> None:
    pass


def _summary(saved: Savings, backend: str, program: str) -> str:
    where = backend.rpartition("@")[2].partition("?")[0]  # without a password
    if not saved.processes:
        return (
            f"{os.path.basename(program)} started no Python program that can be cached: use"
            " `llm-cache-mem run --gateway` for other languages, and Python without -I or -E"
        )
    calls = saved.answered + saved.made
    if not calls and not saved.uncached:
        return "no model call was seen"
    text = f"{saved.answered:,} of {calls:,} calls answered from {where}"
    if saved.answered:
        usd = "" if saved.usd is None else f", {dollars(saved.usd)}"
        text += f", which saved {saved.tokens:,} tokens{usd} and {saved.seconds:,.1f} s"
    return text + (f"; {saved.uncached:,} uncached or not stored" if saved.uncached else "")
