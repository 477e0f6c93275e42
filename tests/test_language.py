"""Text that users see is plain English in standard terms: STYLE's banned forms are not in it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
SOURCES = (
    *sorted(ROOT.glob("llm_cache_mem/**/*.py")),
    *sorted(ROOT.glob("integrations/**/*.py")),
)
BANNED = re.compile(
    r"\b(?:somebody|nobody|whoever|no one else|he|she|his|him)\b"
    r"|\bwhat (?:you get|goes wrong|stands|lies)\b"
    r"|\bis told of\b|\bgoes but by\b",
    re.IGNORECASE,
)
"""Forms that read as translated."""
RETIRED = re.compile(
    r"(?<![a-z])(?:captain|harmless|heir|patience|relay|seat|thaw|twin)s?(?![a-z])",
    re.IGNORECASE,
)
"""Words in place of which the field has standard ones: see "Words" in CONTRIBUTING.md."""
CODE = re.compile(r"^( *)```.*?^\1```$|`[^`\n]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)


def banned_in(text: str) -> list[str]:
    return [match[0] for match in BANNED.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_no_banned_form(page: Path) -> None:
    assert banned_in(CODE.sub("", page.read_text(encoding="utf-8"))) == []


def test_no_retired_word_is_left() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in (*PAGES, *SOURCES)
        for match in RETIRED.finditer(path.read_text(encoding="utf-8"))
        if path.name != "changelog.md"
    }
    assert found == set()


def messages_in(tree: ast.AST) -> Iterator[str]:
    """The texts that a module raises, logs or prints as help."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.Call):
            calls = [node.exc] if isinstance(node, ast.Raise) else [node]
            for call in calls:
                if isinstance(call, ast.Call):
                    for part in ast.walk(call):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield part.value


def test_messages_have_no_banned_form() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {text[:60]}"
        for path in SOURCES
        for text in messages_in(ast.parse(path.read_text(encoding="utf-8")))
        if len(text) > 20 and banned_in(text)
    }
    assert found == set()


def test_public_docstrings_have_no_banned_form() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                text = "" if node.name.startswith("_") else ast.get_docstring(node) or ""
                if banned_in(text):
                    found.append(f"{path.relative_to(ROOT)}: {node.name}: {banned_in(text)}")
    assert found == []
