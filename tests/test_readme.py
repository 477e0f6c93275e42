"""Every Python example of the README and of docs/ runs, as printed, in a folder of its own."""

import ast
import asyncio
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
NEEDS = {"mcp.client": "mcp", "langchain_llm_cache_mem": "langchain_core", "llama_index_llm_cache_mem": "llama_index.core"}


def examples() -> list:
    found = []
    heading = ""
    text = "\n".join(page.read_text() for page in PAGES)
    for match in re.finditer(r"^#+ ([^\n]+)$|^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1]:
            heading = match[1]
        else:
            found.append(pytest.param(match[2], id=f"{len(found) + 1}-{re.sub(r'[^a-z0-9]+', '-', heading.lower()).strip('-')}"))
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning:inspect")  # LlamaIndex's workflows look at pydantic's deprecated attributes
@pytest.mark.parametrize("code", examples())
def test_example(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for package, needed in NEEDS.items():
        if package in code:
            pytest.importorskip(needed)
    scope: dict[str, object] = {"__name__": "readme"}
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    result = eval(compile(code, "README.md", "exec", flags=flags), scope)
    if asyncio.iscoroutine(result):
        asyncio.run(result)


def test_there_are_examples():
    assert len(examples()) >= 15
