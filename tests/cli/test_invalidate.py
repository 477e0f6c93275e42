"""``invalidate``: answers that depend on a document, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import fails, run

from llm_cache_mem import LLMCache, options

NAME = "doc:handbook"


def _fill(path: Path, **settings: Any) -> None:
    with LLMCache(backend=path, **settings) as cache, options(depends_on=[NAME, "table:prices"]):
        cache.put("hi", "answer", model="m")


def _found(path: Path, **settings: Any) -> Any:
    with LLMCache(backend=path, **settings) as cache:
        return cache.get("hi", model="m")


@pytest.mark.parametrize(
    ("options_given", "gone"),
    [((), True), (("--namespace", "a"), True), (("--namespace", "b"), False)],
)
def test_invalidate_reaches_the_namespaces_that_are_meant(
    tmp_path: Path, options_given: tuple[str, ...], gone: bool
) -> None:
    path = tmp_path / "c.db"
    _fill(path, namespace="a")
    assert NAME in run("invalidate", str(path), NAME, *options_given).stdout
    assert (_found(path, namespace="a") is None) is gone


def test_invalidate_reaches_encrypted_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.db"
    monkeypatch.setenv("LLM_CACHE_MEM_KEY", "a" * 43)
    _fill(path)
    assert '"invalidated": true' in run("invalidate", str(path), NAME, "--json").stdout
    assert _found(path) is None
    assert '"invalidated": false' in run("invalidate", str(path), NAME, "--json").stdout


@pytest.mark.parametrize("key", ["", "b" * 43])
def test_invalidate_fails_without_the_encryption_key(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.db"
    monkeypatch.setenv("LLM_CACHE_MEM_KEY", "a" * 43)
    _fill(path)
    monkeypatch.setenv("LLM_CACHE_MEM_KEY", key)
    said = fails("invalidate", str(path), NAME)
    assert "cannot be told" in said
    assert "set LLM_CACHE_MEM_KEY" in said


def test_show_lists_what_an_entry_depends_on(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    _fill(path)
    key = LLMCache().key("hi", model="m")
    assert "depends on doc:handbook, table:prices" in run("show", str(path), key).stdout


def test_invalidate_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    fails("invalidate", str(path), NAME)
    assert not path.exists()
    _fill(path)
    assert "printable" in fails("invalidate", str(path), "a\nb", status=2)


def test_an_import_brings_no_invalid_answer_back(tmp_path: Path) -> None:
    path, file = tmp_path / "c.db", tmp_path / "e.jsonl"
    _fill(path)
    run("export", str(path), str(file))
    run("invalidate", str(path), NAME)
    run("import", str(path), str(file), "--overwrite")
    assert _found(path) is None


def test_marks_of_dependencies_are_no_answers_in_lists_and_sums(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    with LLMCache(backend=path, keep_requests=True) as cache, options(depends_on=["doc:a"]):
        cache.get_or_call("hi", lambda **_: "yes", model="m")
    for order in (), ("--sort", "oldest"), ("--grep", "hi"):
        listed = json.loads(run("list", str(path), "--json", *order).output)
        assert [listed["total"], *(row["kind"] for row in listed["entries"])] == [1, "value"]
    summary = json.loads(run("stats", str(path), "--json").output)
    assert (summary["entries"], list(summary["by_kind"])) == (1, ["value"])
    assert run("why", str(path), "--all").output.startswith("1 request,")
    assert json.loads(run("list", str(path), "--json", "--kind", "generation").output)["total"] == 1
