"""The project as a whole: which way imports point, what importing costs, what the wheel holds, what
the metadata says."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llm_cache_mem"

# Each group may import from those before it and, without a cycle, from its own. A new module takes
# its place here; what is split off a module keeps that module's name in front ("codec_tags") and
# its place.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "fork", "hashing", "log", "strict_json"),
    (
        "entry",
        "encryption",
        "crypto",
        "key",
        "keys",
        "canonical",
        "wire",
        "codec",
        "stats",
        "ledger",
        "options",
        "redaction",
    ),
    (
        "foreign",
        "twins",
        "seats",
        "protocols",
        "usage",
        "pricing",
        "admission",
        "flight",
        "request",
        "explain",
        "misses",
        "streams",
        "stores",
        "fleet",
    ),
    ("engine", "functions"),
    ("cache",),
    ("tools", "prompt_cache"),
    ("__init__",),
    (
        "frameworks",
        "http",
        "notebook",
        "survey",
        "replay",
        "pytest_plugin",
        "terminal",
        "bench",
        "cli",
        "__main__",
        "demo",
    ),
)
UPWARD = {
    ("llm_cache_mem", "llm_cache_mem.notebook")
}  # what %load_ext calls; imported when it does
CORE = len(LAYERS) - 1  # the layers before this one import nothing optional
# Modules of these layers that are for one optional package, and that only those load who use it.
OPTIONAL = {
    "llm_cache_mem.values.encryption": "cryptography",
    "llm_cache_mem.stores.redis": "redis",
    "llm_cache_mem.stores.memcached": "pymemcache",
}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


class Import:
    """One import statement: the dotted *target*, and whether it runs when its module is *eager*-ly
    imported."""

    def __init__(self, target: str, *, eager: bool) -> None:
        self.target = target
        self.eager = eager


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports_of(path: Path) -> Iterator[Import]:
    """Every import in the file, those in functions included, those for type checkers left out."""

    def walk(node: ast.AST, eager: bool) -> Iterator[Import]:
        if is_for_types_only(node):
            return
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, eager=eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = any(
                    (ROOT / whole.replace(".", "/")).with_suffix(end).exists()
                    for end in ("", ".py")
                )
                yield Import(whole if is_module else node.module, eager=eager)
        inside = eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def part_of(module: str) -> str:
    """The name under which *module* stands in LAYERS."""
    name = module.split(".")[1] if "." in module else "__init__"
    return name if name in RANK else name.partition("_")[0]


def rank(module: str) -> int:
    """The layer of *module*; that of the outermost if it has none, which has a test of its own."""
    return RANK.get(part_of(module), CORE)


def optional(module: str) -> str:
    """Which of OPTIONAL *module* is, or is split off; "" if none."""
    return next((name for name in OPTIONAL if module.startswith(name)), "")


@cache
def sources() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def own(target: str) -> bool:
    return target == "llm_cache_mem" or target.startswith("llm_cache_mem.")


# -- Imports point one way


def test_every_module_has_its_place_in_the_order() -> None:
    missing = {module for module in sources() if part_of(module) not in RANK}
    assert not missing, f"give these a place in LAYERS: {sorted(missing)}"


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module} imports {found.target}"
        for module, path in sources().items()
        for found in imports_of(path)
        if own(found.target)
        and rank(found.target) > rank(module)
        and ((module, found.target) not in UPWARD or found.eager)
    ]
    assert not wrong, wrong


def test_no_module_is_imported_while_it_imports() -> None:
    graph = {
        module: (
            {found.target for found in imports_of(path) if found.eager and own(found.target)}
            - {module}
        )
        for module, path in sources().items()
    }
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"a cycle: {' -> '.join((*trail, module))}"
        if module not in finished:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def test_the_core_imports_nothing_optional_at_its_top() -> None:
    wrong = [
        f"{module} imports {found.target}"
        for module, path in sources().items()
        if rank(module) < CORE
        for found in imports_of(path)
        if found.eager and not own(found.target)
        if found.target.partition(".")[0]
        not in {*sys.stdlib_module_names, OPTIONAL.get(optional(module))}
    ]
    assert not wrong, wrong


def test_what_is_for_an_optional_package_is_loaded_by_those_who_use_it_only() -> None:
    wrong = [
        f"{module} imports {found.target}"
        for module, path in sources().items()
        for found in imports_of(path)
        if found.eager
        and optional(found.target)
        and optional(module) != optional(found.target)
        and rank(module) < CORE
    ]
    assert not wrong, wrong


def test_integrations_know_the_library_but_not_each_other_nor_its_outer_parts() -> None:
    outer = {f"llm_cache_mem.{name}" for name in LAYERS[CORE]}
    folders = integration_folders()
    wrong = [
        f"{path.relative_to(ROOT)}: {found.target}"
        for folder in folders
        for path in folder.rglob("*.py")
        for found in imports_of(path)
        if found.target in outer
        or found.target.partition(".")[0] in {other.name for other in folders} - {folder.name}
    ]
    assert not wrong, wrong


def test_the_library_does_not_know_the_integrations() -> None:
    names = {folder.name for folder in integration_folders()}
    imports = [
        (module, found.target, found.eager)
        for module, path in sources().items()
        for found in imports_of(path)
    ]
    known = {
        (module, eager) for module, target, eager in imports if target.partition(".")[0] in names
    }
    assert known == {("llm_cache_mem.frameworks", False)}


def test_every_module_says_what_it_is_and_what_it_offers() -> None:
    for path in every_file():
        module = path.relative_to(ROOT)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{module} has no docstring"
        targets = [
            t.id
            for n in tree.body
            if isinstance(n, ast.Assign | ast.AnnAssign)
            for t in ast.walk(n)
            if isinstance(t, ast.Name)
        ]
        assert "__all__" in targets, f"{module} has no __all__"


def test_every_name_that_a_module_offers_has_a_statement_of_its_own_where_the_documentation_finds_it() -> (
    None
):
    for path in every_file():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assigned = [
            (target, node.value)
            for node in body
            if isinstance(node, ast.Assign)
            for target in node.targets
        ]
        (offered,) = [
            set(ast.literal_eval(value))
            for target, value in assigned
            if ast.unparse(target) == "__all__"
        ] or [set()]
        together = {
            ast.unparse(name)
            for target, _ in assigned
            if isinstance(target, ast.Tuple)
            for name in target.elts
        }
        assert not offered & together, f"{path.relative_to(ROOT)}: {sorted(offered & together)}"


def every_file() -> list[Path]:
    return [
        *sources().values(),
        *(path for folder in integration_folders() for path in folder.rglob("*.py")),
    ]


# -- Importing is light


def in_fresh_python(code: str, *flags: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_little_and_starts_no_thread() -> None:
    code = (
        "import sys; before = set(sys.modules); import llm_cache_mem; loaded ="
        " sorted(set(sys.modules) - before);import json, threading; print(json.dumps([loaded,"
        " threading.active_count()]))"
    )
    loaded, threads = json.loads(in_fresh_python(code))
    heavy = {
        "asyncio",
        "json",
        "struct",
        "threading",
        "sqlite3",
        "dataclasses",
        "inspect",
        "concurrent",
        "urllib",
        "tempfile",
        "decimal",
        "datetime",
        "uuid",
        "socket",
        "typing_extensions",
    }
    assert not heavy & {name.partition(".")[0] for name in loaded}
    foreign = {name.partition(".")[0] for name in loaded} - {
        *sys.stdlib_module_names,
        "llm_cache_mem",
    }
    assert not foreign
    assert threads == 1


def test_it_works_where_no_optional_package_can_be_imported() -> None:
    """What make wheel-check does with the built wheel, here with a finder that hides all but the
    standard library."""
    hide = (
        "import sys\n"
        "class Hide:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        top = name.partition('.')[0]\n"
        "        if top not in sys.stdlib_module_names and top != 'llm_cache_mem':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide)\n"
    )
    script = (ROOT / "tests" / "no_extras.py").read_text(encoding="utf-8")
    script = script[: script.index("extras = set(")]  # the rest asks the installed metadata
    in_fresh_python(hide + script)


# -- The wheel and its metadata


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def integration_folders() -> list[Path]:
    folders = [path for path in (ROOT / "integrations").glob("*") if any(path.glob("*.py"))]
    return sorted(folders)


def packages() -> list[str]:
    found: list[str] = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]  # type: ignore[index]
    return found


def test_the_packages_listed_are_the_folders_there_are() -> None:
    assert packages() == [
        "llm_cache_mem",
        *(f"integrations/{folder.name}" for folder in integration_folders()),
    ]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {"llm_cache_mem/py.typed"}
    for package in packages():
        source = ROOT / package
        expected |= {str(path.relative_to(source.parent)) for path in source.rglob("*.py")}
        expected |= {str(path.relative_to(source.parent)) for path in source.rglob("py.typed")}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


def test_the_wheel_brings_its_licence_and_its_command(wheel: zipfile.ZipFile) -> None:
    info = next(name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "llm-cache-mem = llm_cache_mem.__main__:main" in entry_points
    assert "[pytest11]\nllm_cache_mem = llm_cache_mem.testing.pytest_plugin" in entry_points


def test_the_version_is_the_same_everywhere() -> None:
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    version = project()["project"]["version"]  # type: ignore[index]
    assert f'__version__ = "{version}"' in source
    assert re.search(
        rf"^## {re.escape(version)}\b",
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )


def test_the_library_needs_nothing() -> None:
    assert project()["project"]["dependencies"] == []  # type: ignore[index]


def test_every_pinned_package_is_pinned_once_and_exactly() -> None:
    for file in (
        ROOT / name
        for name in (
            "constraints.txt",
            "benchmarks/constraints.txt",
            "benchmarks/probes/constraints.txt",
            "scripts/docs/constraints.txt",
            "tests/llama_index/constraints.txt",
        )
    ):
        lines = [
            line
            for line in file.read_text(encoding="utf-8").splitlines()
            if line and not line.startswith("#")
        ]
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line) for line in lines)
        names = [line.partition("==")[0].lower().replace("_", "-") for line in lines]
        assert len(names) == len(set(names))
