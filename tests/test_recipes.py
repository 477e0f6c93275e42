"""The recipes as services: what a page prints, under uvicorn with several workers."""

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stores.servers import free_port, until

from llm_cache_mem.testing.model_server.stand_in import StandInServer

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def workers(recipe: str, folder: Path, **environment: str) -> Iterator[str]:
    """The URL of two workers that serve the first example of docs/recipes/*recipe*."""
    page = (ROOT / "docs/recipes" / recipe).read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert code is not None
    (folder / "app.py").write_text(code[1], encoding="utf-8")
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app:app", "--workers=2", f"--port={port}"],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, folder]))},
        stderr=subprocess.PIPE,
        text=True,
    ) as served:
        assert served.stderr is not None
        log: list[str] = []
        reading = threading.Thread(target=log.extend, args=(served.stderr,))
        reading.start()
        try:
            until(lambda: sum("startup complete" in line for line in log) == 2, "two workers", 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            served.terminate()
            served.wait(30)
            reading.join()


def asked(url: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def test_workers_of_the_service_share_one_call(tmp_path: Path, redis_url: str) -> None:
    pytest.importorskip("fastapi")
    with StandInServer(delay=0.3) as provider:
        threading.Thread(target=provider.serve_forever, daemon=True).start()
        environment = {
            "CACHE_URL": redis_url,
            "OPENAI_BASE_URL": f"{provider.url}/v1",
            "OPENAI_API_KEY": "none",
        }
        with (
            workers("service.md", tmp_path, **environment) as url,
            ThreadPoolExecutor(20) as users,
        ):
            question = {"text": "What is the capital of France?"}
            answers = list(users.map(asked, [f"{url}/answer"] * 20, [question] * 20))

            def avoided() -> list[int]:  # a worker that is asked adds what it has counted itself
                saved = users.map(asked, [f"{url}/savings"] * 8)
                return [json.loads(totals)["avoided"] for totals in saved]

            until(lambda: 19 in avoided(), "the totals of both workers", 90)
        provider.shutdown()
    assert (len(set(answers)), provider.calls) == (1, 1)


def test_metrics_of_the_workers_are_added_up(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    (tmp_path / "metrics").mkdir()
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    with workers("metrics.md", tmp_path, **environment) as url, ThreadPoolExecutor(8) as users:
        list(users.map(asked, [f"{url}/ask?question=When&team=support"] * 40))
        scraped = asked(f"{url}/metrics")
    counted = re.findall(
        r'^llm_cache_mem_requests_total\{.*"(?:hit|miss)".*\} (\S+)$', scraped, re.M
    )
    assert sum(map(float, counted)) == 40
