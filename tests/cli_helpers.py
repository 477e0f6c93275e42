"""What the tests of the command line share."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from llm_cache_mem import LLMCache
from llm_cache_mem.cli.app import app
from llm_cache_mem.keys import digest
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

__all__ = [
    "CANARY",
    "DAY",
    "GOOD",
    "PROMPT",
    "ROOT",
    "answer",
    "chunks",
    "digest_of",
    "entry",
    "fails",
    "fill",
    "held",
    "process",
    "read",
    "rows",
    "run",
    "runner",
    "stored_key",
]

CANARY = "CANARY-of-an-answer"
PROMPT = "CANARY-of-a-prompt"
DAY = 86400.0
ROOT = Path(__file__).resolve().parents[1]
runner = CliRunner()
GOOD = {"key": "1::value:" + "a" * 64, "stored_at": 1.5, "value": [1]}


def answer(messages: Any, model: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": CANARY,
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
    }


def chunks(messages: Any, model: str, stream: bool) -> Iterator[dict[str, Any]]:
    yield {"choices": [{"delta": {"content": CANARY}}]}
    yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def run(*arguments: str, status: int = 0, stdin: str | bytes | None = None) -> Any:
    """The result of a command, which must end with *status* and without a traceback."""
    result = runner.invoke(app, list(arguments), input=stdin)
    assert result.exit_code == status, (
        result.exit_code,
        result.stdout,
        result.stderr,
        result.exception,
    )
    assert "Traceback" not in result.output
    if status:
        assert result.stderr.strip(), "a failure says why"
    return result


def read(*arguments: str, stdin: str | None = None) -> Any:
    return json.loads(run(*arguments, "--json", stdin=stdin).stdout)


def fails(*arguments: str, status: int = 1, stdin: str | bytes | None = None) -> str:
    result = run(*arguments, status=status, stdin=stdin)
    assert not result.stdout
    return str(result.stderr)


def process(*arguments: str, **more: Any) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "llm_cache_mem", *arguments]
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=300, check=False, **more)


def digest_of(model: str) -> str:
    return LLMCache().key(PROMPT, model=model)


def entry(value: Any, *, stored_at: float = 1000.0, **more: Any) -> Entry:
    return Entry(Payload.of(value), stored_at, **more)


def stored_key(name: str, namespace: str = "", kind: str = "value") -> str:
    return digest.prefix(namespace, kind) + digest.digest(name, {})


def fill(path: str, entries: dict[str, Entry]) -> None:
    store = SQLiteStore(path, clock=lambda: 0.0)
    for key, one in entries.items():
        store.put(key, one)
    store.close()


def held(path: str) -> dict[str, tuple[Any, ...]]:
    """Everything in the store, to the byte."""
    store = SQLiteStore(path)
    fields = ("stored_at", "expires_at", "model", "usage", "cost_usd", "seconds", "request")
    found = {
        key: (one.payload.json(), *(getattr(one, name) for name in fields))
        for key, one in store.entries()
    }
    store.close()
    return found


def rows(path: str) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(path)
    found = db.execute(
        "SELECT id, key, stored_at, expires_at, used, data FROM entries ORDER BY id"
    ).fetchall()
    db.close()
    return found
