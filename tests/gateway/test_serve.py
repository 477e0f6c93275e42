"""``llm-cache-mem serve`` as a process: its workers, its configuration, its start and its end."""

import asyncio
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cli_helpers import run
from gateway_client import ANSWER, ASK, CHAT, REPLY, STREAM, STREAMED, post
from http_server import Provider

Serve = Callable[..., tuple[str, "subprocess.Popen[str]"]]


@pytest.fixture
def serve(upstream: Provider, tmp_path: Path) -> Iterator[Serve]:
    """Starts ``serve`` with more arguments, and settings of Popen; its URL, and the process."""
    running, readers = [], []

    def begin(*args: str, **settings: Any) -> tuple[str, "subprocess.Popen[str]"]:
        command = [sys.executable, "-m", "llm_cache_mem", "serve", "--port", "0", *args]
        process = subprocess.Popen(
            [*command, "--upstream", f"openai={upstream.url}"],
            cwd=tmp_path,
            **settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stderr is not None
        first = process.stderr.readline()
        assert " on http://" in first, first + process.stderr.read()
        reader = threading.Thread(target=process.stderr.read, daemon=True)
        reader.start()
        readers.append(reader)
        return first.split(" on ")[1].split(": ")[0], process

    yield begin
    for process in running:
        process.terminate()
        process.wait(60)
    for reader, process in zip(readers, running, strict=True):
        reader.join(10)
        process.stderr.close()


async def ask_all(url: str, body: Any, number: int) -> list[bytes]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:

        async def ask() -> bytes:
            response = await client.post(url, json=body)
            assert response.status_code == 200
            return response.content

        return list(await asyncio.gather(*(ask() for _ in range(number))))


@pytest.mark.parametrize("number", [200, pytest.param(1_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_identical_calls_to_four_workers_are_one(
    serve: Serve, upstream: Provider, number: int, streamed: bool
) -> None:
    url, _ = serve("--workers", "4", "--backend", "sqlite://./cache.db", "--quiet")
    for path in [f"/warm{count}" for count in range(8)]:
        httpx.get(url + path, timeout=60)
    upstream.gives(STREAMED if streamed else REPLY)
    answers = asyncio.run(ask_all(url + CHAT, {**ASK, "stream": streamed}, number))
    assert len(set(answers)) == 1
    assert answers[0] == (STREAM if streamed else REPLY.body)
    assert upstream.calls == 1


def test_metrics_and_sums_add_up_over_the_workers(serve: Serve, upstream: Provider) -> None:
    upstream.gives(REPLY)
    url, _ = serve("--workers", "3", "--backend", "sqlite://./cache.db", "--quiet")
    for _ in range(30):
        post(url + CHAT, connection="close")
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    requests = [line for line in lines if line.startswith("llm_cache_mem_requests_total")]
    counted = {
        outcome: sum(float(line.split()[-1]) for line in requests if f'"{outcome}"' in line)
        for outcome in ("hit", "miss")
    }
    assert counted == {"hit": 29, "miss": 1}
    deadline, sums = monotonic() + 30, {"asked": 0}
    while sums["asked"] < 30 and monotonic() < deadline:  # they write once a second
        sums = httpx.get(f"{url}/_cache/api/summary", headers={"x-llm-cache-page": "1"}).json()
    assert (sums["asked"], sums["hits"]) == (30, 29)


def test_the_environment_names_the_store_unless_a_file_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from llm_cache_mem.cli import serve as command

    backends: list[str] = []
    monkeypatch.setenv("LLM_CACHE_MEM_URL", "sqlite://./env.db")
    monkeypatch.setattr(
        command, "become", lambda name, settings, access_log: backends.append(settings.backend) or 0
    )
    (tmp_path / "gateway.toml").write_text('backend = "sqlite://./file.db"')
    for more in ([], ["--backend", "memory"], ["--config", str(tmp_path / "gateway.toml")]):
        run("serve", *more)
    assert backends == ["sqlite://./env.db", "memory", "sqlite://./file.db"]


def test_answers_survive_a_restart_and_the_key_is_private(
    serve: Serve, upstream: Provider, tmp_path: Path
) -> None:
    upstream.gives(REPLY)
    url, process = serve("--backend", "sqlite://./cache.db")
    assert post(url + CHAT).json() == ANSWER
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM)  # uvicorn ends by the signal, once it is done
    for name in ("cache.db", "cache.db.gateway-key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    url, process = serve("--backend", "sqlite://./cache.db")
    assert post(url + CHAT).headers["x-llm-cache-mem"] == "hit"
    process.kill()
    process.wait(60)
    url, _ = serve("--backend", "sqlite://./cache.db")
    assert post(url + CHAT).headers["x-llm-cache-mem"] == "hit"
    assert upstream.calls == 1


def test_a_stream_that_dies_with_the_gateway_is_not_stored(
    serve: Serve, upstream: Provider
) -> None:
    gate, body = threading.Event(), {**ASK, "stream": True}
    upstream.gives(STREAMED._replace(gate=lambda number: number < 2 or gate.wait(30)))
    url, process = serve("--backend", "sqlite://./cache.db")
    with (
        httpx.Client(timeout=30) as client,
        client.stream("POST", url + CHAT, json=body) as response,
    ):
        pieces = response.iter_raw()
        next(pieces)
        process.kill()
        with pytest.raises(httpx.HTTPError):
            b"".join(pieces)
    gate.set()
    upstream.gives(STREAMED)
    url, _ = serve("--backend", "sqlite://./cache.db")
    assert [post(url + CHAT, body).headers["x-llm-cache-mem"] for _ in "ab"] == ["miss", "hit"]


@pytest.fixture
def many_files() -> Iterator[int]:
    """As many open files as this process may have; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [1_100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_idle_and_slow_clients_stop_no_one(
    serve: Serve, upstream: Provider, many_files: int, number: int
) -> None:
    if many_files < number + 500:
        pytest.skip(f"needs {number + 500} open files, {many_files} are allowed")
    upstream.gives(REPLY)
    url, _ = serve("--quiet", preexec_fn=few_files)
    address = urlsplit(url)

    async def main() -> None:
        writers = []
        for count in range(number):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            if count % 2:  # a request that never ends
                writer.write(b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\nconte")
            writers.append(writer)
        for _ in range(3):
            assert (await asyncio.to_thread(post, url + CHAT)).json() == ANSWER
        for writer in writers:
            writer.close()

    asyncio.run(main())
    assert upstream.calls == 1


def few_files() -> None:
    """The usual limit of a process."""
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
def test_a_full_disk_costs_no_call(serve: Serve, upstream: Provider, tmp_path: Path) -> None:
    upstream.gives(REPLY)
    url, process = serve("--backend", "sqlite://./cache.db")
    assert post(url + CHAT).json() == ANSWER
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 1 << 40))
    for number in range(8):
        other = {**ASK, "messages": [{"role": "user", "content": f"{number}" * 5_000}]}
        assert post(url + CHAT, other).json() == ANSWER
    assert upstream.calls == 9
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))
    process.kill()
    process.wait(60)
    url, _ = serve("--backend", "sqlite://./cache.db")
    assert post(url + CHAT).headers["x-llm-cache-mem"] == "hit"


def test_a_file_configures_it_and_options_go_first(
    serve: Serve, upstream: Provider, tmp_path: Path
) -> None:
    (tmp_path / "gateway.toml").write_text(
        f'share = "all"\nttl_seconds = "1h"\n[upstreams]\nown = "{upstream.url}/base"\n'
    )
    upstream.gives(REPLY)
    url, _ = serve("--config", "gateway.toml")
    assert post(f"{url}/own/v1/chat/completions", token="a").json() == ANSWER
    again = post(f"{url}/own/v1/chat/completions", token="b")
    assert again.headers["x-llm-cache-mem"] == "hit"
    assert upstream.asked[-1].path == "/base/v1/chat/completions"
    url, _ = serve("--config", "gateway.toml", "--share", "credential")
    for token in ("a", "b"):
        response = post(f"{url}/own/v1/chat/completions", token=token)
        assert response.headers["x-llm-cache-mem"] == "miss"


def test_its_page_shows_the_doctors_findings(serve: Serve) -> None:
    url, _ = serve("--backend", "sqlite://./cache.db")
    found = httpx.get(f"{url}/_cache/api/health", headers={"x-llm-cache-page": "1"}, timeout=60)
    assert "round trips" in {finding["topic"] for finding in found.json()} or found.json()
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--workers", "2"], "a store that they share"),
        (["--upstream", "openai"], "NAME=URL"),
        (["--upstream", "own=ftp://host"], "needs a URL"),
        (["--upstream", "own=http://user:SECRET@host"], "takes a host and a path only"),
        (["--upstream", "metrics=http://host"], "the gateway itself answers there"),
        (["--mode", "of"], "on, off, refresh, replay"),
        (["--ttl", "soon"], "is not a duration"),
        (["--trust", "everybody"], "everybody"),
        (["--backend", "redis://127.0.0.1:1/0"], "LLM_CACHE_MEM_GATEWAY_KEY"),
        (["--backend", "nothing://x"], "unknown backend"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, args: list[str], text: str) -> None:
    command = [sys.executable, "-m", "llm_cache_mem", "serve", "--port", "0", *args]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert text in done.stderr
    assert "SECRET" not in done.stderr
    assert "Traceback" not in done.stderr
