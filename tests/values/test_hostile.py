"""Hostile bytes make a miss, and nothing else: nothing is run, imported, opened or built."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).with_name("codec_fuzz.py")


def fuzz(seed: int, rounds: int) -> dict[str, Any]:
    print("seed", seed)
    root = str(FUZZ.parents[2])
    run = [sys.executable, str(FUZZ), str(seed), str(rounds)]
    out = subprocess.run(
        run,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert out.returncode == 0, out.stderr[-2000:]
    return dict(json.loads(out.stdout))


@pytest.mark.parametrize(
    ("seed", "rounds"), [(1, 50_000), pytest.param(2, 1_000_000, marks=pytest.mark.slow)]
)
def test_hostile_bytes_are_misses(seed: int, rounds: int) -> None:
    found = fuzz(seed, rounds)
    assert found["bad"] == []
    assert found["gadgets"] >= 200
    assert found["served"] > 500, "the fuzz got past the envelope"
    assert found["grown_kib"] < 64 * 1024
