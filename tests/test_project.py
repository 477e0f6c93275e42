"""The project as a whole: which way imports point, what importing costs, what the wheel holds, what
the metadata says."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import llm_cache_mem

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llm_cache_mem"

# The packages, and the modules beside them, each importing only from itself and from those before
# it. A new one takes its place here.
ORDER = (
    "_util",
    "errors",
    "options",
    "keys",
    "values",
    "responses",
    "accounting",
    "diagnostics",
    "stores",
    "engine",
    "evaluation",
    "decorators",
    "cache",
    "http",
    "migration",
    "installation",
    "tools",
    "prompt_cache",
    "frameworks",
    "notebook",
    "__init__",
    "testing",
    "bench",
    "telemetry",
    "gateway",
    "cli",
    "__main__",
)
# What integrations do not import, beside each other.
OUTER = {
    "telemetry",
    "frameworks",
    "notebook",
    "http",
    "migration",
    "installation",
    "testing",
    "bench",
    "gateway",
    "cli",
    "__main__",
}
# The modules and packages that need an optional package to be imported at all. A store's package
# may import its client at its top; only code that has chosen the store imports that package.
OPTIONAL = {
    "llm_cache_mem._util.tables": {"rich"},
    "llm_cache_mem.bench.charts": {"matplotlib"},
    "llm_cache_mem.bench.text": {"rich"},
    "llm_cache_mem.cli": {"rich", "typer"},
    "llm_cache_mem.cli.doctor.memcached": {"pymemcache"},
    "llm_cache_mem.cli.doctor.redis": {"redis"},
    "llm_cache_mem.migration.cassette_writer": {"yaml"},
    "llm_cache_mem.migration.cassettes": {"httpx", "yaml"},
    "llm_cache_mem.gateway": {"aiohttp", "prometheus_client", "uvicorn", "yarl"},
    "llm_cache_mem.stores.memcached": {"pymemcache"},
    "llm_cache_mem.stores.redis": {"redis"},
    "llm_cache_mem.telemetry.otel": {"opentelemetry"},
    "llm_cache_mem.telemetry.prometheus": {"prometheus_client"},
    "llm_cache_mem.telemetry.spans": {"opentelemetry"},
    "llm_cache_mem.testing.pytest_plugin": {"pytest"},
}


@dataclass(frozen=True)
class Import:
    """One import of the module *target*; *eager* if it runs while its own module is imported,
    *for_types* if only type checkers see it."""

    target: str
    eager: bool = True
    for_types: bool = False

    def inside(self, node: ast.AST) -> "Import":
        """The same import as a statement in the body of *node*."""
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return Import(self.target, eager=False, for_types=True)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return Import(self.target, eager=False, for_types=self.for_types)
        return self


def modules_in(folder: Path, *, root: Path = ROOT) -> dict[str, Path]:
    """The files in *folder* by the dotted names under which they are imported from *root*."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def sources() -> dict[str, Path]:
    return modules_in(PACKAGE)


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import in the file, in functions and for type checkers too."""

    def walk(node: ast.AST) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            yield from (Import(imported_module(node.module, alias.name)) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from (found.inside(node) for found in walk(child))

    return tuple(walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_module(package: str, name: str) -> str:
    """The module that ``from package import name`` depends on: *package*, or its module *name*."""
    if package == "llm_cache_mem" and name in llm_cache_mem.__all__:
        return package
    whole = f"{package}.{name}"
    file = whole.replace(".", "/")
    is_module = any(
        (root / file).is_dir() or (root / f"{file}.py").exists()
        for root in (ROOT, ROOT / "integrations")
    )
    return whole if is_module else package


def unit(module: str) -> str:
    """The name under which *module* of the library stands in ORDER."""
    return module.split(".")[1] if "." in module else "__init__"


def own(target: str) -> bool:
    return target == "llm_cache_mem" or target.startswith("llm_cache_mem.")


def optional_packages(module: str) -> set[str]:
    """The optional packages that *module* may need to be imported."""
    names = [name for name in OPTIONAL if module == name or module.startswith(f"{name}.")]
    return {package for name in names for package in OPTIONAL[name]}


# -- Imports point one way


def test_every_package_has_its_place_in_the_order() -> None:
    assert sorted(ORDER) == sorted({unit(module) for module in sources()})


def test_at_most_eight_modules_stand_in_the_root() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(modules) <= 8, sorted(modules)


def test_imports_point_one_way() -> None:
    wrong = {
        (module, found.target)
        for module, path in sources().items()
        for found in imports_of(path)
        if own(found.target) and ORDER.index(unit(found.target)) > ORDER.index(unit(module))
    }
    assert not wrong, "see ORDER"


GRAPHS = {
    "llm_cache_mem": modules_in(PACKAGE),
    "benchmarks": modules_in(ROOT / "benchmarks"),
    "examples": modules_in(ROOT / "examples"),
    **{
        folder.name: modules_in(folder, root=folder.parent)
        for folder in sorted((ROOT / "integrations").glob("*_llm_cache_mem"))
    },
}


def cycle_of(graph: dict[str, set[str]]) -> str:
    """An import cycle of *graph*, as ``a -> b -> a``; "" if it has none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return " -> ".join(reversed(exc.args[1]))
    return ""


@pytest.mark.parametrize("package", GRAPHS)
def test_no_modules_import_each_other(package: str) -> None:
    files = GRAPHS[package]
    graph = {
        module: {found.target for found in imports_of(path) if found.target != module} & set(files)
        for module, path in files.items()
    }
    assert not cycle_of(graph)


def needed_packages(module: str) -> set[str]:
    """The optional packages that must be installed for *module* to be imported."""
    eager = [found.target for found in imports_of(sources()[module]) if found.eager]
    foreign = {target.partition(".")[0] for target in eager if not own(target)}
    through_modules = set().union(*(optional_packages(target) for target in eager))
    return (foreign | through_modules) - set(sys.stdlib_module_names)


def test_optional_packages_are_imported_only_by_their_modules() -> None:
    wrong = {
        module: packages
        for module in sources()
        if (packages := needed_packages(module) - optional_packages(module))
    }
    assert not wrong, "import these in a function, or give the module a line in OPTIONAL"


def test_every_listed_module_needs_its_optional_packages() -> None:
    for name, packages in OPTIONAL.items():
        modules = [m for m in sources() if m == name or m.startswith(f"{name}.")]
        assert packages <= set().union(*map(needed_packages, modules)), name


def test_integrations_import_only_the_inner_library() -> None:
    folders = integration_folders()
    wrong = [
        f"{path.relative_to(ROOT)}: {found.target}"
        for folder in folders
        for path in folder.rglob("*.py")
        for found in imports_of(path)
        if (own(found.target) and unit(found.target) in OUTER)
        or found.target.partition(".")[0] in {other.name for other in folders} - {folder.name}
    ]
    assert not wrong, wrong


def test_the_library_does_not_know_the_integrations() -> None:
    names = {folder.name for folder in integration_folders()}
    known = {
        (module, found.eager)
        for module, path in sources().items()
        for found in imports_of(path)
        if found.target.partition(".")[0] in names
    }
    assert not known


def test_every_module_has_a_docstring_and_all() -> None:
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


def test_every_public_name_is_documented() -> None:
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
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_nothing_optional_and_starts_no_thread() -> None:
    code = (
        "import json, sys, threading; before = set(sys.modules); import llm_cache_mem;"
        "print(json.dumps([sorted(set(sys.modules) - before), threading.active_count()]))"
    )
    loaded, threads = json.loads(in_fresh_python(code))
    packages = {name.partition(".")[0] for name in loaded}
    assert packages <= {*sys.stdlib_module_names, "llm_cache_mem"}
    slow = {"asyncio", "dataclasses", "difflib", "html", "inspect", "pathlib", "sqlite3"}
    assert not packages & slow, "only those who use them wait for these"
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
    return built_wheel(folder, LLM_CACHE_MEM_NO_SPEEDUPS="1")


def built_wheel(folder: Path, **environment: str) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    done = subprocess.run(
        [*command, "--directory", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {"llm_cache_mem/py.typed"}
    for package in packages():
        source = ROOT / package
        expected |= {str(path.relative_to(source.parent)) for path in source.rglob("*.py")}
        for kind in ("py.typed", "*.pyi", "gateway/static/*"):
            expected |= {str(path.relative_to(source.parent)) for path in source.rglob(kind)}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


def test_the_wheel_without_the_compiled_part_is_for_every_python(wheel: zipfile.ZipFile) -> None:
    assert wheel.filename is not None
    assert wheel.filename.endswith("-py3-none-any.whl")


def test_a_compiler_adds_one_file_and_makes_the_wheel_one_of_its_platform(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    pytest.importorskip("setuptools")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    required = {"LLM_CACHE_MEM_NO_SPEEDUPS": "", "LLM_CACHE_MEM_SPEEDUPS": "required"}
    compiled = built_wheel(tmp_path, **required)
    assert compiled.filename is not None
    assert "-none-any" not in compiled.filename
    (added,) = set(compiled.namelist()) - set(wheel.namelist())
    assert added.startswith("llm_cache_mem/_util/_speedups.")


def test_the_wheel_brings_its_licence_and_its_command(wheel: zipfile.ZipFile) -> None:
    info = next(name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "llm-cache-mem = llm_cache_mem.__main__:main" in entry_points
    assert "[pytest11]\nllm_cache_mem = llm_cache_mem.testing.pytest_plugin" in entry_points


def test_the_metadata_name_the_pages_of_the_project(wheel: zipfile.ZipFile) -> None:
    info = next(name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    metadata = wheel.read(f"{info}/METADATA").decode()
    named = set(re.findall(r"^Project-URL: (\w+), https://", metadata, re.MULTILINE))
    assert named == {"Homepage", "Documentation", "Changelog", "Issues"}


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


@pytest.mark.parametrize("folder", ["", "scripts/docs", "tests/llama_index"])
def test_hashes_are_those_of_the_pinned_versions(folder: str) -> None:
    pinned = (ROOT / folder / "constraints.txt").read_text("utf-8")
    hashed = (ROOT / folder / "hashes.txt").read_text("utf-8")
    versions, having_hashes = (
        {
            name.lower().replace("_", "-"): version
            for name, version in re.findall(pattern, text, re.M)
        }
        for pattern, text in (
            (r"^([\w.-]+)==(\S+)$", pinned),
            (r"^([\w.-]+)==(\S+).* \\\n    --hash=sha256:[0-9a-f]{64}", hashed),
        )
    )
    assert len(having_hashes) == hashed.count("==") - hashed.count(" == ")
    assert {name: version for name, version in having_hashes.items() if name in versions} == {
        name: version for name, version in versions.items() if name in having_hashes
    }
    if not folder:
        extras = project()["project"]["optional-dependencies"]  # type: ignore[index]
        names = {re.match(r"[\w.-]+", text)[0].lower() for text in extras["dev"]}  # type: ignore[index]
        assert names - {"llm-cache-mem"} <= set(having_hashes), "make lock"


def test_pre_commit_runs_the_pinned_ruff() -> None:
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert pinned is not None
    assert f"rev: v{pinned[1]} " in hooks
