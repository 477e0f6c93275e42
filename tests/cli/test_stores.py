"""The commands on stores that are no SQLite file: recordings, and those of a server."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import CANARY, DAY, PROMPT, answer, digest_of, entry, fails, read, run, stored_key

from llm_cache_mem import LLMCache, options
from llm_cache_mem.stores import StoreSettings, open_store

PRICES = {"gpt-5-mini": (1.0, 10.0)}


@pytest.fixture(params=["jsonl", "redis", "memcached"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Three entries: two in the default namespace, one of acme."""
    found: str = (
        f"jsonl:///{tmp_path}/llm.jsonl"
        if request.param == "jsonl"
        else request.getfixturevalue(f"{request.param}_url")
    )
    with LLMCache(backend=found, ttl_seconds=DAY, prices=PRICES) as cache:
        cache.get_or_call(PROMPT, answer, model="gpt-5-mini")
        cache.get_or_call(PROMPT, answer, model="claude")
        with options(namespace="acme"):
            cache.get_or_call(PROMPT, answer, model="gpt-5-mini")
    return found


def held(url: str) -> dict[str, Any]:
    store = open_store(url).store
    found = {key: one.payload.json() for key, one in store.entries()}
    store.close()
    return found


def test_stats_list_and_show(url: str) -> None:
    found = read("stats", url)
    assert (found["entries"], found["by_namespace"]["acme"]["entries"], found["unreadable"]) == (
        3,
        1,
        0,
    )
    assert found["by_model"].keys() == {"gpt-5-mini", "claude"}
    listed = read("list", url, "--namespace", "acme")
    assert listed["total"] == 1
    shown = read("show", url, digest_of("claude"), "--value")
    assert shown["model"] == "claude"
    assert CANARY in json.dumps(shown["value"])
    assert CANARY not in run("list", url).stdout + run("stats", url).stdout


def test_output_shows_no_password(url: str) -> None:
    assert "@" not in read("stats", url)["store"]


def test_looking_changes_nothing(url: str) -> None:
    before = held(url)
    for verb in (
        ["stats", url],
        ["list", url],
        ["show", url, digest_of("claude")],
        ["prune", url, "--dry-run"],
    ):
        run(*verb)
    assert held(url) == before


def test_prune_and_clear(url: str) -> None:
    assert read("prune", url)["removed"] == 0
    assert read("prune", url, "--older-than", "0s", "--model", "claude")["removed"] == 1
    assert read("clear", url, "--namespace", "acme", "--yes")["removed"] == 1
    assert "--yes" in fails("clear", url, "--all", status=2, stdin="")
    assert len(held(url)) == 1
    assert read("clear", url, "--all", "--yes")["removed"] == 1
    assert held(url) == {}


def test_out_into_a_file_and_back_in(url: str, tmp_path: Path) -> None:
    before = held(url)
    target = str(tmp_path / "all.exported")
    run("export", url, target)
    run("clear", url, "--all", "--yes")
    assert read("import", url, target) == {"imported": 3, "kept": 0, "expired": 0, "bad_lines": 0}
    assert held(url) == before
    assert read("import", url, target)["kept"] == 3
    with LLMCache(backend=url) as cache:
        assert CANARY in json.dumps(cache.get(PROMPT, model="claude"))


def test_into_sqlite_and_out_of_it(url: str, tmp_path: Path) -> None:
    other, target = str(tmp_path / "other.db"), str(tmp_path / "all.exported")
    run("export", url, target)
    run("import", other, target)
    assert held(other) == held(url)
    run("clear", url, "--all", "--yes")
    run("export", other, target, "--force")
    run("import", url, target)
    assert held(other) == held(url)


def test_memory_in_front_makes_no_difference(url: str) -> None:
    assert read("stats", f"tiered:memory,{url}")["entries"] == 3
    assert read("clear", f"tiered:memory,{url}", "--all", "--yes")["removed"] == 3


def test_a_missing_recording_is_not_made(tmp_path: Path) -> None:
    url = f"jsonl:///{tmp_path}/none.jsonl"
    for verb in (
        ["stats", url],
        ["prune", url],
        ["clear", url, "--all", "--yes"],
        ["export", url, "-"],
    ):
        assert "no such file" in fails(*verb)
    assert not list(tmp_path.iterdir())


def test_many_lines_come_into_a_recording_at_once(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    store = open_store(tmp_path / "a.db", StoreSettings(clock=lambda: 0.0)).store
    for number in range(1200):
        store.put(stored_key(f"q{number}"), entry(number))
    store.close()
    run("export", str(tmp_path / "a.db"), str(lines))
    assert read("import", f"jsonl:///{tmp_path}/all.jsonl", str(lines))["imported"] == 1200
    assert read("stats", f"jsonl:///{tmp_path}/all.jsonl")["entries"] == 1200


def test_the_same_key_twice_leaves_the_newer(tmp_path: Path) -> None:
    good = {"key": "1::value:" + "a" * 64}
    lines = [json.dumps(good | {"stored_at": at, "value": at}) for at in (5.0, 7.0, 6.0)]
    assert read("import", str(tmp_path / "c.db"), "-", stdin="\n".join(lines)) == {
        "imported": 2,
        "kept": 1,
        "expired": 0,
        "bad_lines": 0,
    }
    assert read("show", str(tmp_path / "c.db"), "a" * 64, "--value")["value"] == 7.0


def test_lines_before_a_bad_one_are_imported(tmp_path: Path) -> None:
    good = [
        json.dumps({"key": f"1::value:{number:064}", "stored_at": 1.0, "value": number})
        for number in range(3)
    ]
    text = "\n".join([*good[:2], "{}", good[2]])
    error = fails("import", str(tmp_path / "c.db"), "-", stdin=text)
    assert "line 3" in error
    assert "imported 2 entries before it" in error
    assert read("stats", str(tmp_path / "c.db"))["entries"] == 2
    assert (
        read("import", str(tmp_path / "c.db"), "-", "--on-error", "skip", stdin=text)["imported"]
        == 1
    )
