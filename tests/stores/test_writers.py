"""Who besides this user may change the file of a cache."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_cache_mem import LLMCache
from llm_cache_mem.stores.writers import writers

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")

STRANGER = 54_321
Belong = Callable[[Path], None]


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Belong:
    """Let a file belong to another user: really where this is root, else by being another user."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, STRANGER, STRANGER)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: STRANGER)

    return give


@pytest.mark.parametrize("scheme", ["sqlite", "jsonl"])
def test_file_of_another_user_is_warned_of_once(
    scheme: str, tmp_path: Path, give_away: Belong, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache"
    with LLMCache(backend=f"{scheme}:///{path}") as cache:
        cache.put("q", "a", model="m")
    assert not caplog.records
    give_away(path)
    with LLMCache(backend=f"{scheme}:///{path}") as cache:
        assert cache.get("q", model="m") == "a"
        cache.get("q2", model="m")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{path} belongs to user " in record.getMessage()


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "expected"),
    [
        (0o600, 0o700, []),
        (0o644, 0o755, []),
        (0o602, 0o700, ["everyone may write to the file"]),
        (0o600, 0o702, ["everyone may write to the folder {folder}"]),
        (0o600, 0o1777, []),  # like /tmp: others cannot replace the file
    ],
)
def test_modes_say_who_may_write(
    file_mode: int, folder_mode: int, expected: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    path = folder / "cache.db"
    path.touch()
    path.chmod(file_mode)
    folder.chmod(folder_mode)
    assert writers(str(path)) == [text.format(folder=folder) for text in expected]


def test_owner_and_group_are_among_the_writers(tmp_path: Path, give_away: Belong) -> None:
    path = tmp_path / "cache.db"
    path.touch()
    path.chmod(0o660)
    give_away(path)
    owner, *rest = writers(str(path))
    assert owner.endswith(" owns the file")
    if os.geteuid() == 0:
        assert rest == [f"group {STRANGER} may write to the file"]
