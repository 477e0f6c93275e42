"""Every notebook runs twice in a real kernel and offline, and is committed with the outputs of the
small real model."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from notebook_runner import FOREIGN, NOTEBOOKS, ROOT, run_notebook, text_of_outputs

# Warnings of a kernel, its event loop and its sockets at shutdown are not this library's.
pytestmark = pytest.mark.filterwarnings("default")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_twice_in_one_kernel(path: Path, tmp_path: Path) -> None:
    # of a project around it, with the options of a plugin that is not installed
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "--option-of-a-plugin"\nfilterwarnings = ["error"]\n'
    )
    folder = tmp_path / "notebooks"
    folder.mkdir()
    codes = code_cells(run_notebook(path, folder, runs=2))
    assert codes
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_complete_and_portable(path: Path) -> None:
    notebook: Any = nbformat.read(path, as_version=4)
    codes = code_cells(notebook)
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1)), (
        f"make notebooks-render ARGS={path.stem}"
    )
    text = text_of_outputs(notebook)
    assert FOREIGN.search(text) is None
    assert re.search("stand-in|lemon cup", text) is None
    outputs = [output for cell in codes for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not any("execution" in cell.metadata for cell in codes)  # timestamps
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
