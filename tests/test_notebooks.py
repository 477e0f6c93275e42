"""Every notebook runs, whole, in a real kernel and offline; and none is committed with outputs."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from notebook_runner import run_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# What a kernel, its event loop and its sockets say on their way out is theirs.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path: Path, tmp_path: Path) -> None:
    settings = (
        tmp_path / "pyproject.toml"
    )  # of the project around it, whose plugins nobody has installed
    settings.write_text(
        '[tool.pytest.ini_options]\naddopts = "--option-of-a-plugin"\nfilterwarnings = ["error"]\n'
    )
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = run_notebook(path, folder)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert codes
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))


def test_pages_are_found_beside_an_installed_package(
    tmp_path: Path,
) -> None:
    notebook: Any = nbformat.read(ROOT / "notebooks" / "llama_index.ipynb", as_version=4)
    reading = next(
        number
        for number, cell in enumerate(notebook.cells)
        if "stores.md" in cell.source and cell.cell_type == "code"
    )
    notebook.cells = notebook.cells[reading : reading + 1]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "stores.md").write_text("# Stores\n\n" + "A store keeps entries. " * 10)
    beside = tmp_path / "notebooks"
    beside.mkdir()
    path = beside / "llama_index.ipynb"
    nbformat.write(notebook, path)
    assert run_notebook(path, beside).cells[0].outputs[0].text == "1 pages, 1 sections\n"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook: Any = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        assert not cell.get("outputs"), f"clear the outputs of {path.name}"
        assert cell.get("execution_count") is None, f"clear the outputs of {path.name}"
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")


# -- The runner itself


def written(folder: Path, *sources: str) -> Path:
    path = folder / "written.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]),
        path,
    )
    return path


def test_it_uses_this_checkout(tmp_path: Path) -> None:
    ran = run_notebook(
        written(
            tmp_path,
            "import llm_cache_mem, langchain_llm_cache_mem",
            "print(llm_cache_mem.__file__)",
        ),
        tmp_path,
    )
    assert ran.cells[1].outputs[0].text.strip() == str(ROOT / "llm_cache_mem" / "__init__.py")


@pytest.mark.parametrize(
    "source", ["1 / 0", "import socket; socket.create_connection(('192.0.2.1', 80), 1)"]
)
def test_a_cell_that_fails_or_leaves_the_machine_fails_the_test(
    tmp_path: Path, source: str
) -> None:
    with pytest.raises(CellExecutionError, match=r"ZeroDivisionError|must run offline"):
        run_notebook(written(tmp_path, "x = 1", source), tmp_path)
