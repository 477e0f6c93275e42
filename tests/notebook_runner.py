"""Runs a notebook in a real kernel that sees this checkout, has a folder of its own and reaches
nothing but loopback."""

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

__all__ = ["run_notebook"]

ROOT = Path(__file__).resolve().parents[1]

NOT_PASSED_ON = (
    "LLM_CACHE_MEM_",
    "OPENAI_",
    "ANTHROPIC_",
    "LANGSMITH_",
    "LANGCHAIN_",
    "PYTEST_",
    "COVERAGE_",
)

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
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            language="python",
        )


def run_notebook(path: Path, folder: Path, *, seconds: int = 600) -> Any:
    """The notebook at *path* as it is after running every cell; *folder* is where it runs and what
    it may litter.

    Raises nbclient's CellExecutionError with the cell and its traceback, and CellTimeoutError after
    *seconds* in one cell.
    """
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    home = folder / ".home"
    startup = home / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-offline.py").write_text(OFFLINE)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)},
        "LLM_CACHE_MEM_DEMO": "stand-in",  # where the real model is not the point: it takes seconds
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(ROOT), str(ROOT / "integrations"), os.environ.get("PYTHONPATH")))
        ),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    client = NotebookClient(
        notebook,
        timeout=seconds,
        startup_timeout=300,
        resources={"metadata": {"path": str(folder)}},
        kernel_manager_class=_ThisPython,
    )
    client.execute(env=environment)
    return notebook
