"""A signal handler that raises at random moments leaves no lock held, no connection lost, no other
thread waiting, and no wrong answer."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("interrupted.py")
KINDS = ["memory", "sqlite", "tiered", "jsonl", "redis", "memcached"]
SHARED = [("sqlite", "fleet"), ("redis", "fleet"), ("memcached", "fleet")]
MANY = [(kind, "threads") for kind in KINDS] + SHARED


def storm(url: str, coalesce: str, interrupts: int) -> dict[str, Any]:
    seed = secrets.randbits(32)
    print(f"{seed=}")
    run = [sys.executable, str(PROGRAM), url, coalesce, str(interrupts), str(seed)]
    root = str(PROGRAM.parents[2])
    done = subprocess.run(
        run,
        capture_output=True,
        text=True,
        check=False,
        timeout=120 + interrupts / 100,
        env={**os.environ, "PYTHONPATH": root},
    )
    print(done.stderr[-3000:])
    assert done.returncode == 0
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("kind", "coalesce", "interrupts"),
    [
        *((kind, coalesce, 1_000) for kind, coalesce in MANY),
        *(
            pytest.param(kind, coalesce, 1_000_000 // len(MANY), marks=pytest.mark.slow)
            for kind, coalesce in MANY
        ),
    ],
)
@pytest.mark.timeout(3600)
def test_interrupts_at_random_moments_break_nothing(
    kind: str, coalesce: str, interrupts: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind in ("redis", "memcached"):
        server = request.getfixturevalue(f"{kind}_server")
        url = f"{kind}://127.0.0.1:{server.port}"
    else:
        url = {
            "memory": "memory",
            "sqlite": f"sqlite:///{tmp_path}/cache.db",
            "tiered": f"tiered:memory,sqlite:///{tmp_path}/cache.db",
            "jsonl": f"jsonl:///{tmp_path}/recordings.jsonl",
        }[kind]
    found = storm(url, coalesce, interrupts)
    assert found["problems"] == []
    assert found["interrupts"] >= interrupts
    assert found["files"] < 80
