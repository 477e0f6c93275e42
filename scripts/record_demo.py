"""Draw what ``make demo`` prints as animated SVGs, one for each theme: ``make recording``.

The lines appear in the order and rhythm in which the demo printed them, at a quarter of its time.
"""

import subprocess
import sys
import time
from html import escape
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "docs" / "assets"
THEMES = {
    "light": {"page": "#ffffff", "text": "#24292f", "dim": "#8c959f", "good": "#1a7f37"},
    "dark": {"page": "#0d1117", "text": "#e6edf3", "dim": "#6e7681", "good": "#3fb950"},
}
COLUMNS = 80
CHAR, LINE, MARGIN = 7.2, 17, 14
SPEED = 4.0
LEAST, MOST = 0.04, 1.5  # seconds between two lines

Line = tuple[float, str]
"""The seconds until a line appears, and its text."""


def record() -> list[Line]:
    """The lines that the demo prints, in a terminal of 80 columns."""
    command = [sys.executable, "-m", "examples.demo"]
    lines: list[Line] = [(0.0, "$ make demo")]
    at, before = 0.6, time.monotonic()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"COLUMNS": str(COLUMNS), "PATH": "", "PYTHONUTF8": "1"},
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            now = time.monotonic()
            at += min(max((now - before) / SPEED, LEAST), MOST)
            before = now
            lines.append((at, line.rstrip()))
    if demo.returncode:
        raise SystemExit(f"the demo ended with {demo.returncode}")
    return lines


def draw(lines: list[Line], theme: dict[str, str]) -> str:
    """An SVG in which the *lines* appear one after the other, and stay."""
    width = COLUMNS * CHAR + 2 * MARGIN
    height = len(lines) * LINE + 2 * MARGIN
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + (n + 1) * LINE - 5}" class="{_kind(text)}"'
        f' style="animation-delay:{at:.2f}s">{escape(text)}</text>'
        for n, (at, text) in enumerate(lines)
        if text
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">
<title>make demo: real calls answered by a model, then from the cache</title>
<style>
text {{ font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre;
  fill: {theme["text"]}; opacity: 0; animation: show 0.1s forwards }}
.dim {{ fill: {theme["dim"]} }}
.good {{ fill: {theme["good"]}; font-weight: bold }}
@keyframes show {{ to {{ opacity: 1 }} }}
@media (prefers-reduced-motion) {{ text {{ opacity: 1; animation: none }} }}
</style>
<rect width="100%" height="100%" rx="8" fill="{theme["page"]}" stroke="{theme["dim"]}"/>
{rows}
</svg>
"""


def _kind(text: str) -> str:
    if text.startswith(("$", "All ", "│ all", "│ calls", "│ dollars")):
        return "good"
    return "dim" if text[:1] in "┏┡├└" else "plain"


def main() -> None:
    lines = record()
    for name, theme in THEMES.items():
        (ASSETS / f"demo-{name}.svg").write_text(draw(lines, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
