"""The ``bench`` commands."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import fails, read, run

from llm_cache_mem import LLMCache
from llm_cache_mem.bench import TraceRecorder
from llm_cache_mem.tools import ToolCache

BASE = {"timestamp": 0, "input_length": 2048, "output_length": 100, "hash_ids": [1, 2, 3, 4]}


def line(**changes: Any) -> str:
    return json.dumps(BASE | changes) + "\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two requests, each of them twice, a minute apart."""
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            line(timestamp=60_000 * number, hash_ids=[1, 2, 3, 4 + number % 2])
            for number in range(4)
        )
    )
    return path


def test_default_simulation_uses_the_defaults_of_llmcache(trace: Path) -> None:
    found = read("bench", str(trace))
    assert (found["trace"]["format"], found["trace"]["calls"], found["trace"]["repeats"]) == (
        "mooncake",
        4,
        2,
    )
    (client,) = found["client"]
    assert (client["max_size"], client["ttl_seconds"], client["policy"], client["coalesce"]) == (
        256,
        3600,
        "lru",
        True,
    )
    assert (client["hits"], client["hit_rate"]) == (2, 0.5)
    assert client["saved_usd"] == pytest.approx(2 * (2048 * 3 + 100 * 15) / 1e6)
    assert client["seconds_saved"] == pytest.approx(2 * 2.5)
    five_minutes, hour = found["provider"]
    assert (five_minutes["ttl_seconds"], hour["ttl_seconds"]) == (300, 3600)
    assert five_minutes["tokens_read"] == 1536 + 2048 + 2048
    assert found["policies"] == []


def test_every_pair_of_limits_is_simulated(trace: Path) -> None:
    options = [
        "--max-size",
        "1",
        "--max-size",
        "none",
        "--ttl",
        "90s",
        "--ttl",
        "none",
        "--policy",
        "lru",
        "--policy",
        "sieve",
    ]
    found = read("bench", str(trace), *options, "--prompt-ttl", "none", "--no-coalesce")
    hits = {
        (row["max_size"], row["ttl_seconds"], row["policy"]): row["hits"] for row in found["client"]
    }
    assert len(hits) == 8
    assert (
        hits[None, None, "lru"],
        hits[None, 90, "lru"],
        hits[1, None, "lru"],
        hits[None, None, "sieve"],
    ) == (2, 0, 0, 2)
    assert (found["provider"], found["client"][0]["with_provider"]) == ([], [])


def test_text_report_shows_the_figures_of_the_json(trace: Path) -> None:
    text = run("bench", "run", str(trace), "--policies", "--max-size", "2").stdout
    for part in (
        "50.000 %",
        "4 in 3 min",
        "exact repeats 2",
        "LLMCache",
        "Both",
        "SIEVE",
        "2 = 100 %",
    ):
        assert part in text, part


def test_prices_come_from_options(trace: Path) -> None:
    plain = read("bench", str(trace), "--price", "1,2")
    assert plain["uncached"]["usd"] == pytest.approx(4 * (2048 + 200) / 1e6)
    assert (
        plain["provider"][0]["write_all"]["saved_usd"] == 0
    )  # reading and writing cost what input does
    pytest.importorskip("genai_prices")
    assert read("bench", str(trace), "--model", "claude-sonnet-4-5")["price"] == {
        **{
            "input": pytest.approx(3),
            "output": pytest.approx(15),
            "cache_read": pytest.approx(0.3),
        },
        **{"cache_write": pytest.approx(3.75), "cache_write_1h": pytest.approx(6)},
    }


def test_bad_line_is_named_when_fatal_and_when_skipped(trace: Path) -> None:
    good = trace.read_text().splitlines(keepends=True)
    bad = [
        "{\n",
        "[]\n",
        line(input_length=-1),
        line(hash_ids=["a"]),
        line(timestamp="x"),
        '{"timestamp": 1}\n',
        '{"a": "\udcff"}\n',
    ]
    trace.write_bytes("".join([good[0], *bad, *good[1:]]).encode("utf-8", "surrogateescape"))
    assert f"{trace}:2: not JSON" in fails("bench", str(trace))
    result = run("bench", str(trace), "--on-error", "skip", "--json")
    assert json.loads(result.stdout)["trace"]["bad_lines"] == len(bad)
    assert json.loads(result.stdout)["trace"]["calls"] == 4
    for number in range(2, 2 + len(bad)):
        assert f"{trace}:{number}: " in result.stderr


def test_gzip_and_stdin_give_the_same_report(trace: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(trace.read_bytes()))
    expected = read("bench", str(trace))
    for found in (read("bench", str(packed)), read("bench", "-", stdin=trace.read_text())):
        assert {**found, "trace": {**found["trace"], "name": str(trace)}} == expected


def test_error_names_the_file_that_is_not_a_trace(tmp_path: Path, trace: Path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "blank").write_text("\n\n")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "cut.gz").write_bytes(gzip.compress(trace.read_bytes())[:-20])
    assert "no-such-file: No such file" in fails("bench", "no-such-file")
    assert "is empty" in fails("bench", str(tmp_path / "empty"))
    assert "is empty" in fails("bench", str(tmp_path / "blank"))
    assert "other.jsonl:1: unknown format; known are: own, mooncake" in fails(
        "bench", str(tmp_path / "other.jsonl")
    )
    assert "without 1_sys_prompt.jsonl" in fails("bench", str(tmp_path))
    assert "cut.gz:" in fails("bench", str(tmp_path / "cut.gz"))
    assert "unknown format 'x'" in fails("bench", str(trace), "--format", "x")
    assert "only RAGPulse" in fails("bench", str(trace), "--key", "question")


def test_tracing_a_store_says_how_to_record(tmp_path: Path) -> None:
    store, recordings = tmp_path / "cache.db", tmp_path / "recordings.jsonl"
    for path in (store, recordings):
        with LLMCache(backend=path) as cache:
            cache.put([{"role": "user", "content": "hello"}], "hi", model="m")
    assert f"llm-cache-mem bench record {store} trace.jsonl" in fails("bench", str(store), status=2)
    assert "llm-cache-mem bench record makes a trace of them" in fails("bench", str(recordings))
    refused = fails("bench", "redis://:secret@localhost/0", status=2)
    assert "this URL is a store" in refused
    assert "secret" not in refused


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--max-size", "0", "is not a number of entries"),
        ("--max-size", "-3", "is not a number of entries"),
        ("--max-size", "many", "is not a number of entries"),
        ("--ttl", "5", "is not a duration"),
        ("--ttl", "0s", "is not a time to live"),
        ("--prompt-ttl", "soon", "is not a duration"),
        ("--policy", "mru", "write lru or sieve"),
        ("--price", "3", "write two to five numbers"),
        ("--price", "3,nan", "write two to five numbers"),
        ("--model", "nobody-knows-this", "no price is known"),
    ],
)
def test_invalid_option_fails_before_reading_the_trace(option: str, value: str, why: str) -> None:
    assert why in fails("bench", "no-such-file", option, value, status=2)


def test_unordered_calls_fail_without_sort(trace: Path) -> None:
    lines = trace.read_text().splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    expected = read("bench", str(trace))
    trace.write_text("".join(lines))
    assert "--sort" in fails("bench", str(trace))
    assert read("bench", str(trace), "--sort") == expected


def test_store_is_recorded_as_a_trace(tmp_path: Path) -> None:
    path, out = tmp_path / "cache.db", tmp_path / "trace.jsonl"
    usage = {"prompt_tokens": 3000, "completion_tokens": 9}
    for keep in (True, False):
        with LLMCache(backend=path, keep_requests=keep, prices={}) as cache:
            for number in (0, 1, 2, 2, 2):
                messages = [
                    {"role": "system", "content": "CANARY " * 900},
                    {"role": "user", "content": f"{keep} {number}"},
                ]
                cache.get_or_call(
                    messages, lambda **_: {"content": "CANARY", "usage": usage}, model="m"
                )
    assert read("bench", "record", str(path), str(out)) == {
        "calls": 10,
        "without_request": 5,
        "of_tools": 0,
        "lost": 0,
    }
    assert "CANARY" not in out.read_text()
    found = read("bench", str(out), "--sort")
    assert (found["trace"]["calls"], found["trace"]["input_tokens"]) == (10, 30_000)
    assert found["trace"]["repeats"] == 4  # those that happened
    assert found["client"][0]["hits"] == 4
    assert found["provider"][0]["hits"] == 4
    assert "exists" in fails("bench", "record", str(path), str(out))
    assert "no such database" in fails(
        "bench", "record", str(tmp_path / "no.db"), str(tmp_path / "t")
    )
    assert not (tmp_path / "t").exists()
    assert "NO_SUCH is not in the environment" in fails(
        "bench", "record", str(path), str(tmp_path / "t"), "--salt-from", "NO_SUCH", status=2
    )


def test_tool_results_are_left_out_of_a_recorded_trace(tmp_path: Path) -> None:
    path, out = tmp_path / "cache.db", tmp_path / "trace.jsonl"
    with LLMCache(backend=path, prices={}) as cache:
        cache.get_or_call("hi", lambda **_: {"content": "x"}, model="m")
        ToolCache(cache).get_or_call("add", {"a": 1}, lambda a: a + 1)
    counted = read("bench", "record", str(path), str(out))
    assert (counted["calls"], counted["of_tools"]) == (1, 2)


def test_recordings_are_recorded_as_a_trace(tmp_path: Path) -> None:
    path, out = tmp_path / "recordings.jsonl", tmp_path / "trace.jsonl"
    with LLMCache(backend=path, prices={}) as cache:
        cache.get_or_call(
            [{"role": "user", "content": "CANARY " * 900}], lambda **_: {"content": "x"}, model="m"
        )
    shown = fails("bench", "record", str(path), str(out), status=2)
    assert "does not count hits" in shown
    assert "TraceRecorder" in shown
    assert not out.exists()
    assert read("bench", "record", str(path), str(out), "--once")["without_request"] == 0
    assert "CANARY" not in out.read_text()
    assert "no such file" in fails(
        "bench", "record", str(tmp_path / "no.jsonl"), str(tmp_path / "t")
    )
    assert not (tmp_path / "no.jsonl").exists()


def test_help_shows_examples() -> None:
    assert "llm-cache-mem bench trace.jsonl.gz" in run("bench", "run", "--help").stdout
    assert "bench record ./cache.db" in run("bench", "record", "--help").stdout
    assert "record" in run("bench", "--help").stdout


@pytest.mark.parametrize("columns", ["40", "80"])
def test_narrow_terminal_truncates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    path = tmp_path / "trace.jsonl"
    with TraceRecorder(path) as recorder:
        LLMCache(on_event=recorder).get_or_call("hi", lambda **_: {"content": "x"}, model="m")
    monkeypatch.setenv("COLUMNS", columns)
    shown = run("bench", str(path)).stdout
    assert "…" not in shown
    assert "hit rate" in shown
