"""Every Python example of the README and of docs/ runs, as printed, in a folder of its own."""

import ast
import asyncio
import gc
import re
import sys
import threading
from inspect import signature
from pathlib import Path
from textwrap import dedent

import pytest

import llm_cache_mem
from llm_cache_mem import LLMCache, options
from llm_cache_mem.testing.model_server.stand_in import StandInServer
from llm_cache_mem.tools import ToolCache

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
NEEDS = {
    "mcp.client": "mcp",
    "langchain_llm_cache_mem": "langchain_core",
    "llama_index_llm_cache_mem": "llama_index.core",
}
OF_A_CACHE = set(signature(LLMCache).parameters)
SETTINGS = {
    "LLMCache": OF_A_CACHE,
    "LLMCacheMem": OF_A_CACHE | {"usage", "unidentified", "sources"},
    "CachedLLM": OF_A_CACHE | {"identity", "usage", "sources"},
    "ToolCache": OF_A_CACHE | set(signature(ToolCache).parameters),
    "options": set(signature(options).parameters),
}
VARIABLES = {f"LLM_CACHE_MEM_{name}" for name in ("MODE", "KEY", "URL", "DEMO", "SERVERS")}


def examples_of(page: Path) -> list:
    """Each block of Python with its heading's words as name, and with its lines numbered as in the
    page."""
    name = page.relative_to(ROOT)
    text = page.read_text(encoding="utf-8")
    found = []
    heading = ""
    for match in re.finditer(
        r"^#+ ([^\n]+)$|^( *)```python\n(.*?)^\2```$", text, re.MULTILINE | re.DOTALL
    ):
        if match[1]:
            heading = re.sub(r"[^a-z0-9]+", "-", match[1].lower()).strip("-")
        else:
            code = "\n" * text.count("\n", 0, match.start(3)) + dedent(match[3])
            found.append(
                pytest.param(
                    code, str(name), id=f"{name.with_suffix('')}-{len(found) + 1}-{heading}"
                )
            )
    return found


def examples() -> list:
    return [example for page in PAGES for example in examples_of(page)]


@pytest.fixture(scope="module")
def provider():
    """The base URL of a server on loopback that has the OpenAI API."""
    with StandInServer(delay=0.0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{server.url}/v1"
        server.shutdown()


@pytest.fixture(autouse=True)
def as_before():
    """Ends what an example turns on for the whole process."""
    yield
    llm_cache_mem.uninstall()
    for module, turn_off in (
        ("langchain_core.globals", "set_llm_cache"),
        ("llama_index_llm_cache_mem", "set_llm_cache"),
    ):
        if module in sys.modules:
            getattr(sys.modules[module], turn_off)(None)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:inspect"
)  # LlamaIndex's workflows look at pydantic's deprecated attributes
@pytest.mark.parametrize(("code", "page"), examples())
def test_example(code, page, tmp_path, monkeypatch, provider):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", provider)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    for package, needed in NEEDS.items():
        if package in code:
            pytest.importorskip(needed)
    scope: dict[str, object] = {"__name__": "readme"}
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    result = eval(compile(code, page, "exec", flags=flags), scope)
    if asyncio.iscoroutine(result):
        asyncio.run(result)
    if "OpenAI(" in code:
        scope.clear()
        gc.collect()  # clients that an example leaves open go here, and not in another test


def test_there_are_examples():
    assert len(examples()) >= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_of_python_is_written_so_that_it_does_not_run(page):
    """Under another name of the language, or with a title: a block that cannot run is a plain one."""
    blocks = re.findall(
        r"^[ \t]*(?:```+|~~~+)[ \t]*\{?[ \t]*\.?py(?:thon|con)?\b",
        page.read_text(encoding="utf-8"),
        re.MULTILINE | re.IGNORECASE,
    )
    assert len(blocks) == len(examples_of(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_running_text_names_exist(page):
    """Examples run; what stands in a sentence or a table does not."""
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    named = re.findall(rf"`[^`\n]*\b({'|'.join(SETTINGS)})\(([^()`\n]*)\)[^`\n]*`", text)
    unknown = [
        f"{call}({name}=)"
        for call, given in named
        for name in re.findall(r"(\w+)=(?!=)", given)
        if name not in SETTINGS[call]
    ]
    variables = re.findall(r"\bLLM_CACHE_MEM_[A-Z]+\b", text)
    assert unknown + [name for name in variables if name not in VARIABLES] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_a_file_and_a_heading_in_it(name):
    """Those of the pages under docs/ are checked in the finished site."""
    links = re.findall(
        r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", (ROOT / name).read_text(encoding="utf-8")
    )
    missing = [target for target, _ in links if not (ROOT / (target or name)).exists()]
    unheaded = [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor and anchor not in anchors(ROOT / (target or name))
    ]
    assert missing + unheaded == []


def anchors(page: Path) -> set[str]:
    """The names under which the headings of a page can be linked to."""
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
