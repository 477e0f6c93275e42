"""Every module of the project, in the order in which they stand on one another, with what it
offers."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import griffe

__all__ = ["GROUPS", "ROOT", "documented", "group_of", "load", "names_of", "ordered"]

ROOT = Path(__file__).resolve().parents[2]
INTEGRATIONS = ("langchain_llm_cache_mem", "llama_index_llm_cache_mem")
GROUPS = {
    "ground": "Requests, keys, values",
    "engine": "The engine and the cache",
    "around": "Around the cache",
    "stores": "Stores",
    "http": "HTTP",
    "installation": "Installation",
    "gateway": "Gateway",
    "tools": "Tools",
    "prompt_cache": "Prompt cache",
    "bench": "Benchmark",
    "cli": "Command line",
    "langchain_llm_cache_mem": "LangChain",
    "llama_index_llm_cache_mem": "LlamaIndex",
}
"""The pages of modules, and their titles. What is in a package of its own is on that one's page,
all else by its layer."""
GROUND = ("_util", "errors", "options", "keys", "values")
ENGINE = ("responses", "accounting", "diagnostics", "cache", "decorators")


def load() -> dict[str, griffe.Module]:
    """Every module by its dotted name, read but not imported."""
    loader = griffe.GriffeLoader(search_paths=[ROOT, ROOT / "integrations"])
    found: dict[str, griffe.Module] = {}

    def walk(module: griffe.Module) -> None:
        found[module.path] = module
        for member in module.modules.values():
            if not member.is_alias:
                walk(member)

    for package in ("llm_cache_mem", *INTEGRATIONS):
        walk(loader.load(package))  # type: ignore[arg-type]  # a package is a module
    loader.resolve_aliases(external=False)
    return found


def layers() -> list[str]:
    """The parts of the library from the bottom up, as the test of imports lists them."""
    tree = ast.parse((ROOT / "tests" / "test_project.py").read_text(encoding="utf-8"))
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER"
    ]
    return list(ast.literal_eval(value))


def ordered(modules: Iterable[str]) -> list[str]:
    """*modules* in the order of their layers, a package's own module first."""
    order = {name: place for place, name in enumerate(layers())}

    def place(module: str) -> tuple[int, str]:
        part = module.split(".")[1] if "." in module else "__init__"
        return order.get(part, len(order)), module

    return sorted(modules, key=lambda module: (module.startswith(INTEGRATIONS), *place(module)))


def group_of(module: str) -> str:
    """On which page of GROUPS *module* is."""
    top, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    if top in GROUPS or part in GROUPS:
        return top if top in GROUPS else part
    if part in GROUND:
        return "ground"
    return "engine" if part in ENGINE else "around"


def names_of(module: griffe.Module) -> list[str]:
    """The public names of *module*, which are its ``__all__``; those that it passes on from another
    library left out."""
    names = [str(name) for name in module.exports or ()]
    return [
        name for name in names if not (member := module.members[name]).is_alias or _is_own(member)
    ]


def _is_own(name: griffe.Object | griffe.Alias) -> bool:
    try:
        return isinstance(name, griffe.Alias) and bool(name.final_target)
    except griffe.AliasResolutionError:  # it leads to a library that is not read here
        return False


def documented(modules: dict[str, griffe.Module]) -> set[str]:
    """What the pages under docs/api/ show, each by the path of where it is defined."""
    shown: set[str] = set()
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            if path in modules:
                shown |= {
                    modules[path][name].canonical_path for name in names_of(modules[path])
                } | {path}
            else:
                holder, _, name = path.rpartition(".")
                shown.add(modules[holder][name].canonical_path)
    return shown
