"""What of the documentation is made from the project itself: ``parts.py FOLDER`` writes the pieces that pages under docs/ include."""

import html
import subprocess
import sys
from pathlib import Path

from modules import GROUPS, documented, group_of, load, names_of, ordered

__all__ = ["cli", "main", "module_pages"]


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


def module_pages() -> dict[str, str]:
    """For each group of modules what mkdocstrings is to show: every module, but of its names only those that no page of the API has."""
    modules = load()
    shown = documented(modules)
    pages = {group: [f"# {title}\n"] for group, title in GROUPS.items()}
    for path in ordered(modules):
        module = modules[path]
        own = [name for name in names_of(module) if not module[name].is_alias and module[name].canonical_path not in shown]
        if path not in shown:
            pages[group_of(path)].append(f"::: {path}\n    options:\n      members: {own or 'false'}\n")
    return {f"inside/{group}.md": "\n".join(page) for group, page in pages.items()}


def main() -> None:
    """Write every part into the folder that the command line names."""
    folder = Path(sys.argv[1])
    for name, text in {"cli.md": cli(), **module_pages()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
