"""The gateway beside other proxies: start, memory, requests a second, CPU of a hit and of a miss.
All on loopback, with wrk and the same provider. "stack" is the web server alone, with no cache and
no provider behind it, "aiohttp" a forwarder that does nothing else.

    python -m benchmarks.gateway [--seconds 5] [--litellm PATH/litellm] [--portkey start-server.js]
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 400, "completion_tokens": 80, "total_tokens": 480},
}
PROVIDER = """
import asyncio, sys
answer = sys.argv[2].encode()
head = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(answer)
class Provider(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.got = transport, b""
    def data_received(self, data):
        self.got += data
        while b"\\r\\n\\r\\n" in self.got:
            top, _, rest = self.got.partition(b"\\r\\n\\r\\n")
            lengths = [line for line in top.lower().split(b"\\r\\n") if line.startswith(b"content-length:")]
            size = int(lengths[0].split(b":")[1]) if lengths else 0
            if len(rest) < size:
                return
            self.got = rest[size:]
            self.transport.write(head + answer)
async def main():
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""
HIT = """
wrk.method = "POST"
wrk.body = [[{body}]]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer sk-bench"
{headers}
"""
MISS = (
    HIT
    + """
local count = 0
math.randomseed(os.time())
local run = tostring(math.random(1000000000))
function request()
  count = count + 1
  local body = string.gsub(wrk.body, "QUESTION", "question " .. run .. " " .. count, 1)
  return wrk.format(nil, nil, nil, body)
end
"""
)


STACK = """
import asyncio, sys, aiohttp, uvicorn
answer, upstream, session = sys.argv[2].encode(), sys.argv[3], None
async def app(scope, receive, send):
    global session
    if scope["type"] != "http":
        return
    body = (await receive())["body"]
    out = answer
    if upstream:
        session = session or aiohttp.ClientSession(auto_decompress=False)
        kind = {"content-type": "application/json"}
        async with session.post(upstream, data=body, headers=kind) as response:
            out = await response.read()
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(out)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": out})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, ws="none", lifespan="off")
"""


class Contestant(NamedTuple):
    """A proxy to measure: how it is started, the path that it answers on, the model asked, and what
    else it has to be told."""

    name: str
    command: list[str]
    path: str
    model: str = "m"
    environment: dict[str, str] = {}  # noqa: RUF012
    headers: dict[str, str] = {}  # noqa: RUF012


class Load(NamedTuple):
    """What wrk saw, and the CPU that the proxy spent a request."""

    per_second: float
    p50: str
    p99: str
    cpu_us: float
    requests: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children_of(pid: int) -> list[int]:
    """*pid* and the processes that it has started."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += children_of(int(child))
    return found


def cpu_of(pid: int) -> float:
    ticks = 0
    for each in children_of(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_of(pid: int) -> float:
    """MB."""
    pages = sum(
        int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in children_of(pid)
    )
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def ask(url: str, body: bytes, headers: dict[str, str]) -> bool:
    usual = {"content-type": "application/json", "authorization": "Bearer sk-bench"}
    request = urllib.request.Request(url, body, {**usual, **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return b"choices" in response.read()
    except (OSError, urllib.error.URLError):
        return False


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load(url: str, script: Path, seconds: int, pid: int) -> Load:
    before = cpu_of(pid)
    printed = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{seconds}s", "--latency", "-s", str(script), url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    spent = cpu_of(pid) - before
    requests = int(re.search(r"(\d+) requests in", printed)[1])  # type: ignore[index]
    if "Non-2xx" in printed:
        raise RuntimeError(f"{url}: answers were errors\n{printed}")
    return Load(
        float(re.search(r"Requests/sec: +([\d.]+)", printed)[1]),  # type: ignore[index]
        re.search(r"50% +(\S+)", printed)[1],  # type: ignore[index]
        re.search(r"99% +(\S+)", printed)[1],  # type: ignore[index]
        spent / max(1, requests) * 1e6,
        requests,
    )


def measure(contestant: Contestant, port: int, folder: Path, seconds: int) -> str:
    url = f"http://127.0.0.1:{port}{contestant.path}"
    question = {"model": contestant.model, "messages": [{"role": "user", "content": "QUESTION"}]}
    body = json.dumps(question)
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(text)}"
        for name, text in contestant.headers.items()
    )
    for name, script in (("hit", HIT), ("miss", MISS)):
        filled = script.replace("{body}", body).replace("{headers}", headers)
        (folder / f"{name}.lua").write_text(filled)
    began = time.monotonic()
    with running(contestant.command, contestant.environment) as process:
        while not ask(url, body.encode(), contestant.headers):
            if process.poll() is not None or time.monotonic() - began > 120:
                return f"{contestant.name:<24} did not start"
            time.sleep(0.02)
        start = time.monotonic() - began
        ask(url, body.encode(), contestant.headers)
        hit = load(url, folder / "hit.lua", seconds, process.pid)
        miss = load(url, folder / "miss.lua", seconds, process.pid)
        memory = rss_of(process.pid)
    return (
        f"{contestant.name:<24}{start:>7.1f}{memory:>8.0f}{hit.requests + miss.requests:>9}"
        f"{hit.per_second:>9.0f}{hit.p50:>10}{hit.p99:>10}{hit.cpu_us:>9.0f}"
        f"{miss.per_second:>9.0f}{miss.p50:>10}{miss.p99:>10}{miss.cpu_us:>9.0f}"
    )


def litellm(binary: str, upstream: int, port: int, folder: Path) -> Contestant:
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: m\n    litellm_params:\n      model: openai/m\n"
        f"      api_base: http://127.0.0.1:{upstream}/v1\n      api_key: sk-bench\n"
        "litellm_settings:\n  cache: true\n  cache_params:\n    type: local\n"
    )
    command = [binary, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    path = "/v1/chat/completions"
    return Contestant(
        "LiteLLM proxy, local",
        command,
        path,
        environment={
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        },
    )


def portkey(script: str, upstream: int, port: int) -> Contestant:
    settings = {"provider": "openai", "custom_host": f"http://127.0.0.1:{upstream}/v1"}
    settings |= {"api_key": "sk-bench", "cache": {"mode": "simple"}}
    return Contestant(
        "Portkey gateway",
        ["node", script, "--headless", f"--port={port}"],
        "/v1/chat/completions",
        headers={"x-portkey-config": json.dumps(settings)},
    )


def stack(name: str, port: int, upstream: str) -> Contestant:
    command = [sys.executable, "-c", STACK, str(port), json.dumps(ANSWER), upstream]
    return Contestant(name, command, "/v1/chat/completions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--litellm", default=shutil.which("litellm"), help="its command")
    parser.add_argument("--portkey", help="its start-server.js")
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("needs wrk: apt-get install wrk")
    with TemporaryDirectory() as name:
        folder, upstream = Path(name), free_port()
        serve = [sys.executable, "-m", "llm_cache_mem", "serve", "--quiet"]
        target = ["--upstream", f"openai=http://127.0.0.1:{upstream}"]
        path = "/openai/v1/chat/completions"
        provider = [sys.executable, "-c", PROVIDER, str(upstream), json.dumps(ANSWER)]
        print(f"load {os.getloadavg()[0]:.1f}; 16 connections, {asked.seconds} s each")
        print(
            f"{'':<24}{'start s':>7}{'RSS MB':>8}{'after':>9}{'hits/s':>9}{'p50':>10}{'p99':>10}{'CPU us':>9}"
            f"{'miss/s':>9}{'p50':>10}{'p99':>10}{'CPU us':>9}"
        )
        with running(provider, {}):
            for name, behind in (
                ("stack", ""),
                ("aiohttp", f"http://127.0.0.1:{upstream}/v1/chat/completions"),
            ):
                port = free_port()
                print(measure(stack(name, port, behind), port, folder, asked.seconds))
            for label, backend in (("ours, memory", "memory"), ("ours, SQLite", f"{folder}/c.db")):
                port = free_port()
                command = [*serve, "--port", str(port), "--backend", backend, *target]
                print(measure(Contestant(label, command, path), port, folder, asked.seconds))
            if asked.litellm:
                port = free_port()
                other = litellm(asked.litellm, upstream, port, folder)
                print(measure(other, port, folder, asked.seconds))
            if asked.portkey:
                port = free_port()
                other = portkey(asked.portkey, upstream, port)
                print(measure(other, port, folder, asked.seconds))


if __name__ == "__main__":
    main()
