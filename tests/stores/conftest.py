"""What the tests of stores share."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem._util import in_thread
from llm_cache_mem.stores import fail_open


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: some tests make a thousand databases, and wait for the disk
    each time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        dir=memory if os.access(memory, os.W_OK) else tmp_path
    ) as folder:
        yield Path(folder)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The calls that went to a thread."""
    calls: list[object] = []

    async def counted(call: Callable[[], Any]) -> Any:
        calls.append(call)
        return await in_thread.run_in_thread(call)

    monkeypatch.setattr(fail_open, "run_in_thread", counted)
    return calls
