"""No text from a request or a store gives orders to a terminal, wherever it leaves us."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import run, runner

from llm_cache_mem import CacheMissError, LLMCache
from llm_cache_mem._util.terminal import visible
from llm_cache_mem.cli.app import app
from llm_cache_mem.diagnostics.survey import survey
from llm_cache_mem.errors import EntryUnreadable, RequestNotCacheable, StoreError
from llm_cache_mem.keys import digest
from llm_cache_mem.prompt_cache.tracker import Alert
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

EVIL = "x\x1b]52;c;ZXZpbA==\x07\x9b2J\u202e\nfake line"
ESCAPED = r"x\x1b]52;c;ZXZpbA==\x07\x9b2J\u202e\nfake line"


def is_harmless(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text) and "\nfake line" not in text


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": {name: {"type": "int"}}}}


def request(field: str, **params: Any) -> dict[str, Any]:
    return {"model": EVIL, "tools": [tool(field)], **params}


@pytest.fixture
def cache(tmp_path: Path) -> LLMCache:
    cache = LLMCache(backend=tmp_path / "cache.db", keep_requests=True)
    cache.get_or_call("q", lambda messages, **params: "answer", **request(EVIL, user=EVIL))
    return cache


def test_only_control_characters_are_escaped() -> None:
    assert visible("Grüße, 世界 ✓") == "Grüße, 世界 ✓"
    assert visible(EVIL) == ESCAPED
    assert visible("a\nb\r", lines=True) == "a\nb\\r"
    assert visible("\ud800") == "\\ud800"


def test_an_explanation_escapes_field_names_and_values(cache: LLMCache) -> None:
    text = str(cache.explain("q", **request("other", user=EVIL)))
    assert is_harmless(text)
    assert ESCAPED in text


def test_a_miss_in_replay_escapes_what_it_quotes(cache: LLMCache, tmp_path: Path) -> None:
    replay = LLMCache(backend=tmp_path / "cache.db", mode="replay", keep_requests=True)
    with pytest.raises(CacheMissError) as caught:
        replay.get("q", **request("other"))
    assert is_harmless(str(caught.value))
    assert ESCAPED in str(caught.value)


def test_a_survey_escapes_field_names() -> None:
    requests = [{"model": "m", "messages": "q", EVIL: number} for number in range(3)]
    text = str(survey(requests))
    assert is_harmless(text)
    assert ESCAPED in text


def test_stats_escape_model_names_and_reasons(cache: LLMCache) -> None:
    cache.get("q", **request(EVIL, user=EVIL))
    text = str(cache.stats())
    assert is_harmless(text)
    assert ESCAPED in text


@pytest.mark.parametrize(
    "error",
    [
        RequestNotCacheable(f"messages.{EVIL}", "a set"),
        EntryUnreadable(f"its class {EVIL} is not registered"),
        StoreError("SQLiteStore", "get", EVIL),
        CacheMissError("key", unreadable=EVIL, where=EVIL),
        Alert(EVIL, EVIL, EVIL, EVIL, 0.0, 0.0, 0, 0, 0.0, 0.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_messages_escape_names(error: object) -> None:
    assert ESCAPED.split("\\n")[0] in str(error)
    assert "\x1b" not in str(error)
    assert "\x9b" not in str(error)


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A store with every text of an entry under somebody else's control."""
    path = tmp_path / "hostile.db"
    store = SQLiteStore(path, clock=lambda: 0.0)
    for number in range(2):
        kept = json.dumps({"messages": "q", "model": EVIL, EVIL: number}).encode()
        key = digest.prefix(EVIL, "value") + digest.digest(str(number), {})
        store.put(key, Entry(Payload.of(EVIL), 1.0, None, EVIL, request=kept))
    store.close()
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        lambda url: ("stats", url),
        lambda url: ("list", url),
        lambda url: ("show", url, digest.digest("1", {}), "--value"),
        lambda url: ("why", url, "--namespace", EVIL, "--all"),
        lambda url: ("why", url, "--namespace", EVIL),
    ],
    ids=["stats", "list", "show", "why --all", "why"],
)
def test_every_command_escapes_what_a_store_holds(
    command: Callable[[str], tuple[str, ...]], hostile: str
) -> None:
    asked = json.dumps({"messages": "q", "model": "m", f"{EVIL}2": 1})
    result = runner.invoke(app, list(command(hostile)), input=asked)
    assert is_harmless(result.stdout + result.stderr)
    assert r"\x1b]52" in result.stdout


def test_an_error_of_a_command_escapes_what_it_names(hostile: str) -> None:
    result = run("show", hostile, EVIL, status=1)
    assert is_harmless(result.stderr)


def test_logs_escape_server_text(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryStore):
        name = EVIL

        def get(self, key: str) -> Entry | None:
            raise StoreError("Failing", "get", EVIL)

    with LLMCache(backend=Failing()) as cache:
        for _ in range(3):
            cache.get("q")
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert is_harmless(record.getMessage())
        assert record.getMessage().count(ESCAPED) == 2
