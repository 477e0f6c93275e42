"""The tool calls of a real agent, through ToolCache, by the command that the documentation
names."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORDING = "tau_bench_airline_gpt4o_tool_calls.jsonl.gz"


def test_writes_lower_the_hit_rates_of_the_recording(shared_data: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "tools", str(shared_data / "tools" / RECORDING)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "1,164 recorded calls of tools, 774 of them" in done.stdout
    rates = {
        line[:28].strip(): re.findall(r"([\d.]+)% \((\d+) stale\)", line)
        for line in done.stdout.splitlines()
        if "stale)" in line
    }
    found = {name: [float(rate) for rate, _ in cells] for name, cells in rates.items()}
    assert found["nothing"] == [1.6, 17.3, 62.1]  # as an independent count has it
    assert found["all, by what does not read"] == [0.6, 1.4, 1.4]
    assert found["by entity"][0] == 1.6
    assert found["by entity"][2] > 62.1 / 2
    assert found["all, by what writes"][2] < found["by tool"][2] < found["by entity"][2]
    assert {stale for cells in rates.values() for _, stale in cells} == {"0"}
    printed = (ROOT / "benchmarks" / "README.md").read_text()
    for cells in found.values():
        assert f"| {' | '.join(f'{rate} %' for rate in cells)} |" in printed
