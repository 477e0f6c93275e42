"""Run notebooks in a real kernel that sees this checkout and reaches nothing but loopback; as a
command, ``open`` them in JupyterLab or ``render`` them with the small model's answers."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from llm_cache_mem.testing.model_server.endpoint import VARIABLE, Endpoint  # noqa: E402

__all__ = ["FOREIGN", "NOTEBOOKS", "render", "run_notebook", "text_of_outputs"]

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

NOT_PASSED_ON = (
    "LLM_CACHE_MEM_",
    "OPENAI_",
    "ANTHROPIC_",
    "LANGSMITH_",
    "LANGCHAIN_",
    "PYTEST_",
    "COVERAGE_",
)

FOREIGN = re.compile(
    r"(?:/home|/root|/Users|/tmp|/var)/|\b[A-Z]:\\|127\.0\.0\.1:\d{4,}"
    r"|20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d"
)
"""Absolute paths, ports and timestamps, which a committed output must not contain."""

# Runs in the kernel before the first cell. An audit hook cannot be removed by what the cells
# import.
OFFLINE = """
import sys
def _offline(event, args):
    host = None
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0].decode() if isinstance(args[0], bytes) else args[0]
    if host not in (None, "", "localhost", "::1", "0.0.0.0") and not host.startswith("127."):
        raise RuntimeError(f"a notebook must run offline, and this one asked for {host}")
sys.addaudithook(_offline)
"""


class _ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs the tests, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(
            argv=[
                *(sys.executable, "-m", "ipykernel_launcher"),
                *("-f", "{connection_file}", "--log-level=ERROR"),
            ],
            language="python",
        )


def _variables(endpoint: Endpoint) -> dict[str, str]:
    """Return the variables with which the notebooks' SDKs find *endpoint* and this checkout."""
    paths = [str(ROOT / folder) for folder in (".", "integrations", "notebooks")]
    variables = {
        "OPENAI_MODEL": endpoint.model,
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    if endpoint.openai:  # otherwise the SDK finds its key itself
        variables["OPENAI_BASE_URL"] = endpoint.openai["base_url"]
        variables["OPENAI_API_KEY"] = endpoint.openai["api_key"]
    return variables


def run_notebook(
    path: Path, folder: Path, *, model: str = "stand-in", runs: int = 1, seconds: int = 600
) -> Any:
    """Return the notebook at *path* after *runs* executions of all its cells in one kernel, with
    the cells of each in turn. *folder* is where it runs and may leave files.

    *model* is the local model that answers: ``"stand-in"``, which is quick, or ``"model"``.

    Raises nbclient's CellExecutionError with the cell and its traceback, and CellTimeoutError after
    *seconds* in one cell.
    """
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = notebook.cells
    for run in range(2, runs + 1):
        again = nbformat.from_dict(cells)  # a copy
        for cell in again:
            cell["id"] = f"{cell['id']}-{run}"
        notebook.cells = notebook.cells + again
    home = folder / ".home"
    startup = home / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-offline.py").write_text(OFFLINE)
    with Endpoint({VARIABLE: model}) as endpoint:
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(NOT_PASSED_ON)
            },
            VARIABLE: model,
            "HOME": str(home),
            "IPYTHONDIR": str(home / "ipython"),
            "MPLCONFIGDIR": str(ROOT / "build" / "matplotlib"),  # its list of fonts takes seconds
            "PYTHONDONTWRITEBYTECODE": "1",
            **_variables(endpoint),
        }
        NotebookClient(
            notebook,
            timeout=seconds,
            startup_timeout=300,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
            kernel_manager_class=_ThisPython,
        ).execute(env=environment)
    return notebook


def text_of_outputs(notebook: Any) -> str:
    """Return the text of all outputs of *notebook*, without the images."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    data = [output.get("data", {"text": output.get("text", "")}) for output in outputs]
    return "\n".join(
        str(value) for one in data for kind, value in one.items() if not kind.startswith("image/")
    )


def render(path: Path) -> None:
    """Execute the notebook at *path* with the small real model and write its outputs into it."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = run_notebook(path, Path(folder), model="model")
    # a recording's error names its file
    notebook = nbformat.reads(nbformat.writes(notebook).replace(f"{folder}/", ""), as_version=4)
    notebook.metadata.language_info = {"name": "python"}
    for line in text_of_outputs(notebook).splitlines():
        if FOREIGN.search(line) or socket.gethostname() in line:
            raise ValueError(f"{path.name}: an output depends on this machine: {line}")
    nbformat.write(notebook, path)


def open_lab(arguments: Sequence[str] = ()) -> int:
    """Run JupyterLab on the notebooks, with *arguments*, until it ends; return its exit status."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for JupyterLab, which asks first
    with Endpoint() as endpoint:
        print(f"answers come from {endpoint.title}", flush=True)
        return subprocess.call(
            [sys.executable, "-m", "jupyterlab", "quick_start.ipynb", *arguments],
            cwd=ROOT / "notebooks",
            env={**os.environ, **_variables(endpoint)},
        )


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["open", *options]:
            return open_lab(options)
        case ["render", *names]:
            for path in NOTEBOOKS:
                if not names or path.stem in names:
                    print(f"rendering {path.name}", flush=True)
                    render(path)
            return 0
    print("usage: notebook_runner.py open [OPTION ...] | render [NAME ...]", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
