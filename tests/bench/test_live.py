"""The live measurement, against a server of our own."""

import re
import threading
from collections.abc import Iterator

import pytest
from cli_helpers import fails, read, run

from llm_cache_mem.bench.live import ARMS, make_plan, prefix, questions


def test_questions_are_deterministic_with_the_given_share_of_repeats() -> None:
    plan = make_plan(20, 0.5, 100, 8, "run")
    asked = questions(plan)
    assert asked == questions(plan)
    assert (len(asked), len(set(asked))) == (20, 10)
    assert 100 <= len(prefix(plan).split()) < 130


@pytest.mark.parametrize(
    "wrong", [(1, 0.5, 10, 8), (4, 1.0, 10, 8), (4, -0.1, 10, 8), (4, 0.5, 0, 8), (4, 0.5, 10, 0)]
)
def test_plan_with_invalid_numbers_is_refused(wrong: tuple[int, float, int, int]) -> None:
    with pytest.raises(ValueError, match="two calls or more"):
        make_plan(*wrong, "run")


@pytest.fixture
def server() -> Iterator[str]:
    pytest.importorskip("openai")
    pytest.importorskip("anthropic")
    from llm_cache_mem.testing.model_server.stand_in import StandInServer

    with StandInServer(delay=0.0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("provider", "path"), [("openai", "/v1"), ("anthropic", "")])
def test_live_calls_through_the_real_sdks(
    server: str, provider: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", "none")
    options = [
        "--model",
        "stand-in",
        "--base-url",
        server + path,
        "--calls",
        "8",
        "--prefix-words",
        "50",
        "--price",
        "1,1",
    ]
    found = read("bench", "live", provider, *options, "--yes")
    rows = {row["arm"]: row for row in found["arms"]}
    assert list(rows) == [arm.name for arm in ARMS]
    assert [row["calls"] for row in rows.values()] == [8, 8, 4, 4]
    assert all(0 < row["p50_seconds"] <= row["p95_seconds"] for row in rows.values())
    neither = rows["neither"]
    assert neither["usd"] == pytest.approx(
        (neither["input_tokens"] + neither["output_tokens"]) / 1e6
    )
    text = run("bench", "live", provider, *options, "--yes")
    assert "at the most" in text.stderr
    assert "client cache" in text.stdout


def test_live_spends_nothing_without_confirmation(server: str) -> None:
    options = [
        "live",
        "openai",
        "--model",
        "stand-in",
        "--base-url",
        f"{server}/v1",
        "--price",
        "10,10",
    ]
    said = fails("bench", *options, status=2)
    assert re.search(
        r"48 calls of stand-in at the most, [\d,]+ tokens in and 1,536 out, for \$\d", said
    )
    assert "--yes" in said
    assert "Give --model" in fails("bench", "live", "anthropic", status=2)


def test_live_names_the_error_of_a_failed_call(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    options = ["--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--calls", "2"]
    assert "APIConnectionError" in fails("bench", "live", "openai", *options, "--yes")


@pytest.mark.slow
def test_local_model_reads_its_prompt_cache_where_allowed() -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("openai")
    found = read("bench", "live", "--calls", "4", "--prefix-words", "60", "--max-tokens", "4")
    rows = {row["arm"]: row for row in found["arms"]}
    assert rows["prompt cache"]["cached_tokens"] > 3 * rows["neither"]["cached_tokens"]
    assert rows["both"]["calls"] == 2
