"""The command ``llm-cache-mem``: what each of its commands does is in the modules beside this one;
how they fail, here.

Exit status: 0; 1 not found, or it did not work; 2 a wrong command line; 130 interrupted. Results go
to stdout, all else to stderr. Requests are shown only where they are stored, with secrets redacted:
by ``list``, ``show`` and ``why``. Answers are shown only by ``show --value`` and ``export``.
"""

import errno
import inspect
import io
import sys
from typing import Annotated, Any

try:
    import typer
    from typer.core import TyperGroup
except ModuleNotFoundError as exc:
    if exc.name != "typer":
        raise
    raise ImportError(
        "the command line needs typer: pip install 'llm-cache-mem[cli]'", name="typer"
    ) from None

from llm_cache_mem._util.terminal import visible
from llm_cache_mem.cli import bench, change, look, mapping, run, serve, transfer, why
from llm_cache_mem.cli.arguments import FAILED, CommandFailed
from llm_cache_mem.cli.doctor import doctor
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.stores.urls import URL_VARIABLE

__all__ = ["app", "main"]

_INTERRUPTED = 130


class _Commands(TyperGroup):
    """Turns the errors of every command into a line on stderr and an exit status."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        _tidy(self)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LLMCacheError as exc:
            text, status = str(exc), exc.status if isinstance(exc, CommandFailed) else FAILED
        except typer.BadParameter as exc:  # whose text typer begins with the name of a class
            exc.message = exc.message.removeprefix("Value error, ")
            raise
        except OSError as exc:
            if exc.errno == errno.EPIPE:  # the reader has closed the pipe: typer ends quietly
                raise
            text, status = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc), FAILED
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        typer.echo(f"error: {visible(text, lines=True)}", err=True)
        raise typer.Exit(status)


def _tidy(command: Any) -> None:
    """Let the help of *command* and of those below it wrap to the terminal, not as the source does,
    and show no type for flags."""
    command.help = command.help and _unwrapped(command.help)
    own = command.get_params
    command.get_params = lambda ctx: _without_types(own(ctx))
    for each in getattr(command, "commands", {}).values():
        _tidy(each)


def _without_types(params: Any) -> Any:
    """*params*, of which the help says no type where they are flags."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


def _unwrapped(text: str) -> str:
    """*text* with each paragraph in one line, except for those with indented lines."""
    return "\n\n".join(
        part if "\n  " in part else part.replace("\n", " ")
        for part in inspect.cleandoc(text).split("\n\n")
    )


app = typer.Typer(
    cls=_Commands,
    epilog=(
        f"{URL_VARIABLE} can name the store instead of URL. Exit status: 0 success; 1 not found or"
        " failed; 2 wrong command line."
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("stats")(look.stats)
app.command("list")(look.list_)
app.command("show")(look.show)
app.command("key")(look.key)
app.command("keygen")(look.keygen)
app.command("doctor")(doctor)
app.command("why")(why.why)
app.command("prune")(change.prune)
app.command("delete")(change.delete)
app.command("clear")(change.clear)
app.command("invalidate")(change.invalidate)
app.command("run", context_settings={"allow_interspersed_args": False})(run.run)
app.command("map")(mapping.map_)
app.command("serve")(serve.serve)
app.command("ui")(serve.ui)
app.command("export")(transfer.export)
app.command("import")(transfer.import_)
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        from llm_cache_mem import __version__

        typer.echo(f"llm-cache-mem {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Cache LLM calls: inspect stores, explain misses, run programs, measure savings."""


def main() -> None:
    """Run the command that ``sys.argv`` holds, and end the process with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="llm-cache-mem")
