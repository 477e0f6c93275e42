"""The command ``map``: the requests of a file through an SDK, answered into another file."""

import importlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Annotated, Any, BinaryIO, Final, Literal, NamedTuple

import typer

from llm_cache_mem.accounting.render import saved
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.cli.arguments import (
    DEFAULT_STORE,
    FAILED,
    MISUSED,
    STORE_HELP,
    BadInput,
    CommandFailed,
    in_utf8,
    opened,
    parse_json,
)
from llm_cache_mem.cli.jsonl import numbered_lines
from llm_cache_mem.cli.output import count_of, print_json, replacing
from llm_cache_mem.diagnostics.redaction import Redaction
from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.evaluation import MapResult
from llm_cache_mem.stores.urls import URL_VARIABLE

__all__ = ["map_"]


class _Sdk(NamedTuple):
    """The package of an SDK, its client, and the method of that which calls the model."""

    package: str
    client: str
    method: str


_SDKS: Final = {
    "openai": _Sdk("openai", "OpenAI", "chat.completions.create"),
    "anthropic": _Sdk("anthropic", "Anthropic", "messages.create"),
}


def map_(
    requests: Annotated[
        str,
        typer.Argument(
            metavar="REQUESTS",
            help='JSON Lines: an object of "messages" and all other parameters in each.',
        ),
    ],
    out: Annotated[
        str, typer.Option(metavar="FILE", help="Where answers go: JSON Lines, in the same order.")
    ],
    sdk: Annotated[
        Literal["openai", "anthropic"],
        typer.Option(help="Which SDK calls the model. Its own variables name key and server."),
    ],
    backend: Annotated[
        str,
        typer.Option(metavar="URL", envvar=URL_VARIABLE, help=STORE_HELP, show_default=False),
    ] = DEFAULT_STORE,
    namespace: Annotated[
        str, typer.Option(metavar="NAME", callback=in_utf8, help="The namespace of the answers.")
    ] = "",
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of calls at the same time.")
    ] = 8,
    budget_usd: Annotated[
        float | None,
        typer.Option(metavar="N", min=0, help="Make no more calls once this is spent."),
    ] = None,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="On a bad line or a failed call; skip writes the error and goes on."),
    ] = "stop",
    admit: Annotated[
        Literal["complete", "any"],
        typer.Option(help="Which answers to store; any: truncated and refused ones too."),
    ] = "complete",
    force: Annotated[
        bool, typer.Option("--force", help="Replace FILE, whatever it contains.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the counts as one JSON document.")
    ] = False,
) -> None:
    """Answer a file of requests, each once.

    Run the same command again to resume.

    Answers are stored without limits of number or age, and FILE is written anew from them by each
    run.

    Examples:
      llm-cache-mem map requests.jsonl --out answers.jsonl --sdk openai
      OPENAI_BASE_URL=http://localhost:11434/v1 llm-cache-mem map r.jsonl --out a.jsonl --sdk openai
    """
    source = _Requests(requests, skips=on_error == "skip")
    create = _method_of(_SDKS[sdk])
    with (
        closing(_cache(backend, namespace, admit)) as cache,
        _writing(out, requests, force=force) as file,
    ):
        output = _Output(file)
        results: Any = cache.map(
            create, source, concurrency=concurrency, on_error="collect", budget_usd=budget_usd
        )
        try:
            with closing(results):
                for result in results:
                    for line, problem in source.next_line():
                        if problem is not None:
                            output.error(line, "BadInput", problem)
                        elif result.error is not None and on_error == "stop":
                            raise CommandFailed(_stopped(line, result.error, requests))
                        else:
                            output.result(line, result)
        except KeyboardInterrupt:
            calls = count_of(output.counts["paid"], "call", "calls")
            typer.echo(f"stopped after {calls}; run the same command again to resume", err=True)
            raise
        for line, problem in source.next_line():
            output.error(line, "BadInput", problem or "")
        _report(output.counts, cache.stats().skipped, as_json=as_json)
    if output.counts["errors"]:
        raise typer.Exit(FAILED)


class _Requests:
    """The requests in *file*, and the lines on which they stand. BadInput for a line that is none,
    unless it *skips* those."""

    def __init__(self, file: str, *, skips: bool) -> None:
        self._file = file
        self._skips = skips
        self._read: deque[tuple[int, str | None]] = deque()  # lines, and what is wrong with them
        self._count = None if file == "-" else sum(error is None for *_, error in self._lines())

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("the number of requests from stdin is not known")
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, request, error in self._lines():
            self._read.append((number, error))
            if request is not None:
                yield request

    def next_line(self) -> Iterator[tuple[int, str | None]]:
        """The lines up to that of the next result, with what is wrong with each: None for the last,
        which is its own. After the last result, those that are left."""
        while self._read:
            number, error = self._read.popleft()
            yield number, error
            if error is None:
                return

    def _lines(self) -> Iterator[tuple[int, dict[str, Any] | None, str | None]]:
        """The number of each line, its request, and what is wrong with it."""
        with opened(self._file) as stream:
            for number, line in numbered_lines(stream):
                try:
                    yield number, _request_in(line), None
                except BadInput as exc:
                    if not self._skips:
                        name = "stdin" if self._file == "-" else self._file
                        raise BadInput(
                            f"{name}: line {number}: {exc} (--on-error skip goes on)"
                        ) from None
                    yield number, None, str(exc)


def _request_in(line: bytes) -> dict[str, Any]:
    request = parse_json(line)
    if not isinstance(request, dict):
        raise BadInput("not a JSON object")
    if "messages" not in request:
        raise BadInput('"messages" is missing')
    if request.get("stream"):
        raise BadInput('"stream" is not supported here: answers are complete')
    return request


class _Output:
    """Writes results to *file* as lines of JSON, and counts them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._redaction = Redaction()
        self.counts: dict[str, Any] = dict.fromkeys(("requests", "hits", "paid", "errors"), 0)
        self.counts |= {"unpriced": 0, "usd": 0.0}

    def result(self, line: int, result: MapResult) -> None:
        """The answer to the request on *line*, or its error."""
        if result.error is not None:
            self.error(line, type(result.error).__name__, str(result.error))
            return
        usd, seconds = result.usd, round(result.seconds, 6)
        document = {"line": line, "hit": result.hit, "usd": usd, "seconds": seconds}
        self._write({**document, "answer": _as_json(result.value)})
        self.counts["hits" if result.hit else "paid"] += 1
        self.counts["usd"] += usd or 0.0
        self.counts["unpriced"] += usd is None
        if not result.hit:
            self._file.flush()

    def error(self, line: int, kind: str, text: str) -> None:
        """What went wrong with *line*; secrets in *text* are redacted."""
        self._write({"line": line, "error": {"type": kind, "message": self._redaction.text(text)}})
        self.counts["errors"] += 1

    def _write(self, document: dict[str, Any]) -> None:
        self._file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
        self.counts["requests"] += 1


def _as_json(answer: Any) -> Any:
    """The JSON of *answer* as its API sent it."""
    dump = getattr(answer, "model_dump", None)
    return answer if dump is None else dump(mode="json", exclude_unset=True, by_alias=True)


def _method_of(sdk: _Sdk) -> Callable[..., Any]:
    try:
        package = importlib.import_module(sdk.package)
    except ModuleNotFoundError as exc:
        if exc.name != sdk.package:
            raise
        raise CommandFailed(
            f"this needs {sdk.package}: pip install {sdk.package}", MISUSED
        ) from None
    try:
        found: Any = getattr(package, sdk.client)()
    except Exception as exc:  # noqa: BLE001  # no key, most of all
        raise CommandFailed(f"{sdk.package}: {exc}", MISUSED) from None
    for name in sdk.method.split("."):
        found = getattr(found, name)
    return found  # type: ignore[no-any-return]  # the SDK's method


def _cache(backend: str, namespace: str, admit: Literal["complete", "any"]) -> LLMCache:
    try:
        return LLMCache(
            backend=backend, namespace=namespace, admit=admit, max_size=None, ttl_seconds=None
        )
    except (ValueError, ImportError) as exc:
        raise CommandFailed(str(exc), MISUSED) from None


@contextmanager
def _writing(path: str, requests: str, *, force: bool) -> Iterator[BinaryIO]:
    """The file of answers, readable by this user alone. Answers of an earlier run stay until this
    one ends. CommandFailed where it holds anything else."""
    if os.path.lexists(path):
        if requests != "-" and os.path.samefile(path, requests):
            raise CommandFailed(f"{path} is the file of requests itself", MISUSED)
        if os.path.isfile(path) and not force and not _is_output(path):
            raise CommandFailed(f"{path} was not written by this command; --force replaces it")
    has_answers = os.path.isfile(path) and os.path.getsize(path) > 0
    with replacing(path, force=True, partial=not has_answers) as file:
        yield file


def _is_output(path: str) -> bool:
    """Whether the file is empty, or begins as this command would begin it."""
    with open(path, "rb") as file:
        first = file.readline(16)
    return not first or first.startswith(b'{"line": ')


def _stopped(line: int, error: Exception, requests: str) -> str:
    """A description of the *error* that ends the run, without the provider's text, which may quote
    the request. A TypeError is the SDK's, and names a wrong or missing argument."""
    text = f"{requests}: line {line}: {type(error).__name__}"
    status = getattr(error, "status_code", None)
    if isinstance(error, LLMCacheError | TypeError):
        text += f": {Redaction().text(str(error))}"
    elif isinstance(status, int):
        text += f" (HTTP {status})"
    return f"{text}; what was answered is stored (--on-error skip goes on, and writes the error)"


def _report(counts: dict[str, Any], skipped: Mapping[str, int], *, as_json: bool) -> None:
    if as_json:
        print_json({**counts, "not_stored": dict(skipped)})
        return
    asked = count_of(counts["requests"], "request", "requests")
    hits = count_of(counts["hits"], "hit", "hits")
    calls = count_of(counts["paid"], "call", "calls")
    cost = saved(counts["usd"], counts["unpriced"], counts["paid"])
    errors = f", {count_of(counts['errors'], 'error', 'errors')}" if counts["errors"] else ""
    typer.echo(f"{asked}: {hits}, {calls} for {cost}{errors}", err=True)
    if skipped:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in skipped.items())
        typer.echo(
            f"not stored, so that another run calls for them again: {reasons} (--admit any stores"
            " truncated and refused answers too)",
            err=True,
        )
