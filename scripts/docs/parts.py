"""What of the documentation is made from the project itself: ``parts.py FOLDER`` writes the pieces
that pages under docs/ include."""

import json
import re
import subprocess
import sys
from pathlib import Path

from modules import GROUPS, ROOT, documented, group_of, load, names_of, ordered

__all__ = ["cli", "key_vectors", "main", "module_pages"]


def cli() -> str:
    """Every command with its arguments and options, as Typer writes it from the commands' own
    help."""
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
    return _whole_sentences(
        re.sub(r"^Examples:\n((?:  .+\n)+)", _example, done.stdout, flags=re.MULTILINE)
    )


def _example(found: re.Match[str]) -> str:
    commands = re.sub(r"^  ", "$ ", found[1], flags=re.MULTILINE)
    return f"**Examples**:\n\n```console\n{commands}```\n"


def _whole_sentences(text: str) -> str:
    """*text* with what each command says of itself, whole and with a link, where Typer lists
    commands with the first words."""
    said = dict(re.findall(r"^#+ `llm-cache-mem (.+)`\n\n(.+)$", text, re.MULTILINE))
    lines, group = [], ""
    for line in text.splitlines():
        if heading := re.match(r"#+ `llm-cache-mem (.+)`$", line):
            group = f"{heading[1]} "
        elif listed := re.match(r"\* `([a-z][\w-]*)`: ", line):
            name = group + listed[1]
            line = f"* [`{listed[1]}`](#llm-cache-mem-{name.replace(' ', '-')}): {said[name]}"
        lines.append(line)
    return "\n".join(lines) + "\n"


VECTORS = (
    "minimal",
    "upper case keys sort first",
    "number: integer one",
    "number: float one",
    "number: negative zero",
    "number: 1e16 float",
    "number: float 0.00001",
    "number: 2^53+1",
    "text: DEL",
    "text: slash is not escaped",
    "text: emoji",
    "keys: astral sorts by code point",
    "nulls",
    "stop sequences",
    "tool call and result",
    "tool call and result, stable_ids",
    "tool calls side by side",
    "tool calls side by side, stable_ids",
)
"""Which of the vectors the page of the key contract shows."""


def key_vectors() -> str:
    """Those vectors: their names, the texts that are hashed, and the digests."""
    vectors = {
        vector["name"]: vector
        for vector in json.loads(
            (ROOT / "tests" / "data" / "key_vectors.json").read_text(encoding="utf-8")
        )
    }
    chosen = [vectors[name] for name in VECTORS]
    return "\n".join(
        f"{vector['name']}\n\n```text\n{vector['canonical']}\n{vector['digest']}\n```\n"
        for vector in chosen
    )


def module_pages() -> dict[str, str]:
    """For each group of modules what mkdocstrings is to show: every module, but of its names only
    those that no page of the API has."""
    modules = load()
    shown = documented(modules)
    pages = {group: [f"# {title}\n"] for group, title in GROUPS.items()}
    for path in ordered(modules):
        module = modules[path]
        own = [
            name
            for name in names_of(module)
            if not module[name].is_alias and module[name].canonical_path not in shown
        ]
        if path not in shown:
            pages[group_of(path)].append(
                f"::: {path}\n    options:\n      members: {own or 'false'}\n"
            )
    return {f"inside/{group}.md": "\n".join(page) for group, page in pages.items()}


def main() -> None:
    """Write every part into the folder that the command line names."""
    folder = Path(sys.argv[1])
    for name, text in {"cli.md": cli(), "key_vectors.md": key_vectors(), **module_pages()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
