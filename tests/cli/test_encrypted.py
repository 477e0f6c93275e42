"""The commands on an encrypted store: with LLM_CACHE_MEM_KEY they read it, without it they see
nothing and harm nothing."""

import re
from pathlib import Path

import pytest
from cli_helpers import CANARY, PROMPT, answer, fails, read, rows, run

from llm_cache_mem import LLMCache, options
from llm_cache_mem.keys import digest
from llm_cache_mem.values.encryption import KEY_VARIABLE, Encryption, new_key

KEY, OTHER = new_key(), new_key()


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = str(tmp_path / "encrypted.db")
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with LLMCache(backend=path) as cache:
        cache.get_or_call(PROMPT, answer, model="m")
        with options(sample=1, namespace="acme"):
            cache.get_or_call(PROMPT, answer, model="m")
    return path


def found(path: str) -> str | None:
    with LLMCache(backend=path) as cache, options(sample=1, namespace="acme"):
        message = cache.get(PROMPT, model="m")
        return None if message is None else message["content"]


def test_a_new_key_is_one() -> None:
    made = {run("keygen").stdout.strip() for _ in range(3)}
    assert len(made) == 3
    assert [Encryption(key).knows("") for key in made] == [False] * 3


def test_with_the_key_it_is_a_store_like_any_other(encrypted: str) -> None:
    assert read("stats", encrypted)["entries"] == 2
    published = digest.digest(PROMPT, {"model": "m"})
    shown = run(
        "show", encrypted, f"1:acme:value:{Encryption(KEY).digests[0](published)}", "--value"
    )
    assert CANARY in shown.stdout
    assert CANARY in run("show", encrypted, published, "--value").stdout


def test_without_the_key_nothing_is_seen_and_nothing_lost(
    encrypted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(encrypted)
    for name in ("", OTHER):
        monkeypatch.setenv(KEY_VARIABLE, name)
        assert read("stats", encrypted)["unreadable"] == 2
        assert read("list", encrypted)["entries"] == []
        run("prune", encrypted)
    assert rows(encrypted) == before


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (["stats"], [], 0),
        (["list"], [], 0),
        (["why", "--all"], [], 1),
        (["prune", "--dry-run", "--model", "m"], [], 0),
        (["export"], ["-"], 0),
    ],
    ids=str,
)
def test_without_the_encryption_key_commands_report_omissions(
    encrypted: str,
    monkeypatch: pytest.MonkeyPatch,
    before: list[str],
    after: list[str],
    status: int,
) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    said = run(*before, encrypted, *after, status=status).stderr
    assert re.search(
        "left out (1 entry|2 entries) that cannot be read", said
    )  # why looks at one namespace
    assert f"set {KEY_VARIABLE}" in said


def test_a_wrong_key_is_a_wrong_command_line(
    encrypted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "CANARY")
    result = run("stats", encrypted, status=2)
    assert KEY_VARIABLE in result.stderr
    assert "CANARY" not in result.stderr


def test_an_export_comes_back_into_a_store_with_the_same_key(
    encrypted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, other = str(tmp_path / "all.jsonl"), str(tmp_path / "other.db")
    run("export", encrypted, target)
    run("import", other, target)
    assert found(other) == CANARY
    monkeypatch.setenv(KEY_VARIABLE, f"{OTHER},{KEY}")
    rotated = str(tmp_path / "rotated.db")
    run("import", rotated, target)
    assert found(rotated) == CANARY
    for name in ("", OTHER):
        monkeypatch.setenv(KEY_VARIABLE, name)
        assert KEY_VARIABLE in fails("import", str(tmp_path / "third.db"), target)


def test_a_plain_export_is_encrypted_by_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, target, encrypted = (
        str(tmp_path / name) for name in ("plain.db", "plain.jsonl", "encrypted.db")
    )
    with LLMCache(backend=plain) as cache, options(sample=1, namespace="acme"):
        cache.get_or_call(PROMPT, answer, model="m")
    run("export", plain, target)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    run("import", encrypted, target)
    assert found(encrypted) == CANARY
    assert CANARY.encode() not in Path(encrypted).read_bytes()
