"""What of the documentation is made from the project itself: ``parts.py FOLDER`` writes the pieces that pages under docs/ include."""

import html
import subprocess
import sys
from pathlib import Path

__all__ = ["cli", "main"]


def cli() -> str:
    """Every command with its arguments and options, as Typer writes it from the commands' own help."""
    command = [
        sys.executable,
        "-m",
        "typer",
        "llm_cache_mem.cli.app",
        "utils",
        "docs",
        "--name",
        "llm-cache-mem",
        "--title",
        "The command line",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return html.unescape(done.stdout)


PARTS = {"cli.md": cli}


def main() -> None:
    """Write every part into the folder that the command line names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        (folder / name).write_text(part(), encoding="utf-8")


if __name__ == "__main__":
    main()
