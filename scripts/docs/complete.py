"""Whether the finished site has all there is: every public name of every module, and those that
users import on a page of the API."""

import sys
import zlib
from pathlib import Path

from modules import load, names_of

__all__ = ["inventory", "main", "missing"]

FOR_USERS = (
    "llm_cache_mem.testing.pytest_plugin",
    "llm_cache_mem.errors",
    "llm_cache_mem.values.encryption",
    "langchain_llm_cache_mem.tools",
)
"""Modules that users import from or name, beside the packages, which are there for that."""
NOT_FOR_IMPORT = ("llm_cache_mem.stores", "llm_cache_mem.cli.doctor")


def inventory(site: Path) -> dict[str, str]:
    """The page on which each object is, by its dotted name, from the inventory that mkdocstrings
    writes for other sites."""
    *_, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    lines = zlib.decompress(packed).decode().splitlines()
    return {
        name: where.partition("#")[0]
        for name, _, _, where, *_ in (line.split(" ", 4) for line in lines)
    }


def missing(site: Path) -> list[str]:
    """A line for each name that is nowhere, or not where users look for it; empty if all are
    there."""
    where = inventory(site)
    found = []
    modules = load()
    for path, module in modules.items():
        names = [f"{path}.{name}" for name in names_of(module)]
        names = [
            f"{name}.{name.rpartition('.')[2]}" if name in modules else name for name in names
        ]  # the class, not its module
        found += [f"{name}: on no page" for name in names if name not in where]
        if path in FOR_USERS or (module.is_init_module and path not in NOT_FOR_IMPORT):
            found += [
                f"{name}: on no page of docs/api"
                for name in names
                if not where.get(name, "api/").startswith("api/")
            ]
        if path not in where and not any(name in where for name in names):
            found.append(f"{path}: on no page")
    return found


def main() -> None:
    """Check the site that the command line names: status 1 and a line for each thing that is
    missing."""
    if lines := missing(Path(sys.argv[1])):
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
