"""``llm-cache-mem run --gateway``: a program in another language, without a change to it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_client import REPLY
from http_server import Provider

BODY = '{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
CURL = (
    "for i in 1 2 3; do curl -sf $OPENAI_BASE_URL/chat/completions"
    f" -H 'content-type: application/json' -d '{BODY}' >/dev/null || exit 9; done; exit 3"
)
INSTALLED = """
import os, httpx, llm_cache_mem
cache = llm_cache_mem.LLMCache()
with llm_cache_mem.installed(cache):
    for _ in range(3):
        url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        httpx.post(url, json=body).raise_for_status()
assert not any(cache.stats()[:4]), cache.stats()
"""


def run(folder: Path, upstream: Provider, *command: str, **options: Any) -> Any:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "llm_cache_mem",
            "run",
            "--gateway",
            *options.get("args", ()),
            "--",
            *command,
        ],
        cwd=folder,
        env={**os.environ, "OPENAI_BASE_URL": f"{upstream.url}/v1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_shell_script_is_cached_and_its_status_passes(upstream: Provider, tmp_path: Path) -> None:
    upstream.gives(REPLY)
    first = run(tmp_path, upstream, "sh", "-c", CURL)
    assert first.returncode == 3, first.stderr
    assert "2 of 3 calls answered" in first.stderr
    second = run(tmp_path, upstream, "sh", "-c", CURL)
    assert "3 of 3 calls answered" in second.stderr
    assert upstream.calls == 1
    assert upstream.asked[0].path == "/v1/chat/completions"


def test_a_cache_installed_in_the_program_leaves_the_calls_to_the_gateway(
    upstream: Provider, tmp_path: Path
) -> None:
    upstream.gives(REPLY)
    done = run(tmp_path, upstream, sys.executable, "-c", INSTALLED)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 calls answered" in done.stderr


def test_wrong_input_is_named(upstream: Provider, tmp_path: Path) -> None:
    nothing = run(tmp_path, upstream, "no-such-program")
    assert "no-such-program: no such program" in nothing.stderr
    wrong = run(tmp_path, upstream, "true", args=["--backend", "nothing://x"])
    assert "unknown backend" in wrong.stderr
    assert wrong.returncode in (1, 2)


@pytest.mark.parametrize("mode", ["replay"])
def test_the_mode_is_that_of_the_gateway(upstream: Provider, tmp_path: Path, mode: str) -> None:
    done = run(tmp_path, upstream, "sh", "-c", CURL, args=["--mode", mode])
    assert done.returncode == 9
    assert upstream.calls == 0
