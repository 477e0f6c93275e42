"""The command line: each verb, what machines read, what goes wrong and how it ends, and that
looking leaves no trace."""

import contextlib
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import (
    CANARY,
    DAY,
    PROMPT,
    ROOT,
    answer,
    digest_of,
    entry,
    fails,
    fill,
    held,
    read,
    rows,
    run,
    runner,
    stored_key,
)

from llm_cache_mem import LLMCache, options
from llm_cache_mem.cli.app import app
from llm_cache_mem.cli.arguments import CommandFailed, seconds_in
from llm_cache_mem.cli.store import Reader
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

# -- stats


def test_stats_sums_the_stored_entries(path: str) -> None:
    stats = read("stats", path)
    assert stats["store"] == path
    assert (stats["entries"], stats["expired"], stats["unreadable"]) == (4, 1, 0)
    assert (stats["input_tokens"], stats["output_tokens"]) == (3000, 300)
    assert stats["cost_usd"] == pytest.approx(1000 / 1e6 + 100 * 10 / 1e6)
    assert stats["unpriced"] == 3
    assert {name: group["entries"] for name, group in stats["by_namespace"].items()} == {
        "": 3,
        "acme": 1,
    }
    assert {name: group["entries"] for name, group in stats["by_kind"].items()} == {
        "value": 3,
        "stream": 1,
    }
    assert {name: group["entries"] for name, group in stats["by_model"].items()} == {
        "claude": 2,
        "gpt-5-mini": 2,
    }
    assert stats["newest_stored_at"] - stats["oldest_stored_at"] == pytest.approx(3 * DAY, abs=60)


def test_stats_for_people(path: str) -> None:
    shown = run("stats", path).stdout
    assert "4, 1 of them expired" in shown
    assert "(3d" in shown
    assert re.search(r"namespace +\(default\) +3 +1", shown)
    assert re.search(r"claude +2 +0 .* —", shown)
    assert "(+ 3 unpriced)" in shown


def test_zero_and_unknown_figures_of_a_store_are_not_shown(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    LLMCache(backend=name).put("hello", "world", model="m")
    shown = run("stats", name).stdout
    assert re.search(r"^cost +—$", shown, re.MULTILINE)
    assert "expired" not in shown
    assert "took" not in shown


def test_an_empty_store_has_no_entries(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    fill(name, {})
    assert read("stats", name)["entries"] == 0
    assert read("stats", name)["oldest_stored_at"] is None
    assert "entries    0" in run("stats", name).stdout
    assert run("list", name).stderr == "no entries\n"
    assert read("list", name) == {"total": 0, "entries": []}


def test_the_environment_may_name_the_store(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_CACHE_MEM_URL", f"sqlite:///{path}")
    assert read("stats")["entries"] == 4
    assert read("show", digest_of("gpt-5-mini"))["expired"] is True
    assert run("export", "-").stdout.count("\n") == 4
    assert "KEY" in fails("show", status=2)


# -- list


def test_list_shows_the_newest_first(path: str) -> None:
    found = read("list", path)
    assert found["total"] == 4
    times = [row["stored_at"] for row in found["entries"]]
    assert times == sorted(times, reverse=True)
    oldest = found["entries"][-1]
    assert oldest["key"] == f"1::value:{digest_of('gpt-5-mini')}"
    assert oldest["expires_at"] == oldest["stored_at"] + DAY
    assert set(oldest) == {
        *(
            "key",
            "namespace",
            "kind",
            "digest",
            "sample",
            "model",
            "stored_at",
            "expires_at",
            "expired",
        ),
        *("bytes", "usage", "cost_usd", "seconds", "hits", "last_hit_at", "depends_on", "prompt"),
    }
    assert oldest["usage"]["input_tokens"] == 1000


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (["--namespace", "acme"], 1),
        (["--namespace", ""], 3),
        (["--namespace", "acm"], 0),
        (["--kind", "stream"], 1),
        (["--model", "claude"], 2),
        (["--expired"], 1),
        (["--model", "claude", "--expired"], 0),
    ],
)
def test_list_shows_the_requested_entries(path: str, filters: list[str], count: int) -> None:
    assert read("list", path, *filters)["total"] == count


@pytest.fixture
def asked(tmp_path: Path) -> str:
    """A store that has the requests of its entries."""
    name = str(tmp_path / "asked.db")
    texts = ["Where is Paris?", "Compare  the\nrivers of France", "x" * 100]
    requests = [
        {"messages": [{"role": "user", "content": texts[0]}], "model": "m"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": texts[1]}]}]},
        {"messages": texts[2]},
    ]
    now = time.time()
    fill(
        name,
        {
            stored_key(str(n)): entry(
                "x" * n, stored_at=now - 3600.0 * n, cost_usd=n, request=json.dumps(one).encode()
            )
            for n, one in enumerate(requests)
        },
    )
    return name


def test_list_shows_the_beginning_of_each_prompt(asked: str) -> None:
    prompts = [row["prompt"] for row in read("list", asked)["entries"]]
    assert prompts == ["Where is Paris?", "Compare the rivers of France", "x" * 59 + "…"]
    assert "Where is Paris?" in run("list", asked).stdout


@pytest.mark.parametrize(
    ("options", "costs"),
    [
        (["--sort", "oldest"], [2, 1, 0]),
        (["--sort", "size", "--limit", "1"], [2]),
        (["--sort", "cost"], [2, 1, 0]),
        (["--since", "90m"], [0, 1]),
        (["--grep", "RIVERS"], [1]),
        (["--grep", "nowhere"], []),
    ],
)
def test_list_sorts_and_filters(asked: str, options: list[str], costs: list[float]) -> None:
    assert [row["cost_usd"] for row in read("list", asked, *options)["entries"]] == costs


def test_list_rejects_an_unknown_order_or_span(asked: str) -> None:
    assert "Value error" not in fails("list", asked, "--sort", "foo", status=2)
    assert "newest" in fails("list", asked, "--sort", "prettiest", status=2)
    assert "90s" in fails("list", asked, "--since", "yesterday", status=2)


def test_show_shows_the_request_and_stats_one_namespace(asked: str, path: str) -> None:
    assert "Where is Paris?" in run("show", asked, stored_key("0")).stdout
    assert read("show", asked, stored_key("0"))["request"]["model"] == "m"
    assert read("stats", path, "--namespace", "acme")["entries"] == 1
    assert read("stats", path, "--namespace", "acme", "--check")["entries"] == 1


def test_list_reports_how_many_it_left_out(path: str) -> None:
    result = run("list", path, "--limit", "1")
    assert len(result.stdout.splitlines()) == 2
    assert "1 of 4 entries" in result.stderr
    assert len(run("list", path, "--limit", "0").stdout.splitlines()) == 5
    found = read("list", path, "--limit", "2")
    assert (found["total"], len(found["entries"])) == (4, 2)


def test_list_hides_empty_columns(tmp_path: Path, path: str) -> None:
    assert (
        " ".join(run("list", path).stdout.split("\n")[0].split())
        == "key sample namespace kind model age expires size tokens cost"
    )
    plain = str(tmp_path / "plain.db")
    fill(plain, {stored_key("a"): entry("x", model="m")})
    assert (
        " ".join(run("list", plain).stdout.split("\n")[0].split()) == "key model age expires size"
    )


def test_only_a_terminal_truncates_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, long = str(tmp_path / "cache.db"), "organisation/" + "m" * 90
    fill(
        name,
        {
            stored_key("a"): entry(
                "x" * 5000, model=long, usage=(10**6, 5, 0, 0, 0), cost_usd=0.00123
            )
        },
    )
    assert long in run("list", name).stdout
    assert long in run("stats", name).stdout
    monkeypatch.setenv("COLUMNS", "80")
    for verb in ("list", "stats"):
        shown = run(verb, name).stdout
        assert "…" in shown
        assert max(map(len, shown.splitlines())) <= 80 or verb == "stats"
        assert "$0.0012" in shown


def test_control_characters_are_made_visible(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    hostile = "\x1b[31m[red]m\x9b\u202e"
    fill(name, {stored_key("a", namespace=hostile): entry(f"say {hostile}", model=hostile)})
    for verb in (["stats"], ["list"], ["show", "--value"]):
        arguments = [
            verb[0],
            name,
            *([keys.digest("a", {})] if verb[0] == "show" else []),
            *verb[1:],
        ]
        shown = run(*arguments).stdout
        assert not {"\x1b", "\x9b", "\u202e"} & set(shown)
        assert r"\x1b[31m[red]m\x9b\u202e" in shown


# -- show


def test_show_tells_all_but_the_answer(path: str) -> None:
    digest = digest_of("gpt-5-mini")
    shown = run("show", path, digest).stdout
    assert f"1::value:{digest}" in shown
    assert "(default)" in shown
    assert "1,000 input, 100 output" in shown
    assert "$0.0020" in shown
    assert re.search(r"expires +\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d  \(2d ago\)", shown)


def test_show_gives_the_answer_when_asked(path: str) -> None:
    digest = digest_of("gpt-5-mini")
    shown = run("show", path, digest, "--value").stdout
    assert json.loads(shown[shown.index("{") :])["content"] == CANARY
    assert read("show", path, digest, "--value")["value"]["content"] == CANARY


def test_show_takes_a_key_a_digest_or_a_beginning(path: str) -> None:
    digest = digest_of("claude")
    for wanted, sample in (
        (digest, 0),
        (f"1::value:{digest}", 0),
        (f"{digest}.1", 1),
        (f"1::value:{digest}.1", 1),
    ):
        assert read("show", path, wanted)["sample"] == sample
    assert read("show", path, digest_of("gpt-5-mini")[:10])["digest"] == digest_of("gpt-5-mini")
    assert read("show", path, "1:acme:")["kind"] == "stream"


def test_show_lists_the_candidates_of_an_ambiguous_beginning(path: str) -> None:
    said = fails("show", path, digest_of("claude")[:10])
    assert f"1::value:{digest_of('claude')}\n" in said
    assert f"1::value:{digest_of('claude')}.1" in said


def test_show_of_a_missing_key_fails(path: str) -> None:
    assert "no entry" in fails("show", path, "0" * 64)


def test_the_same_digest_in_two_namespaces_is_two_entries(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    fill(name, {stored_key("a"): entry(1), stored_key("a", "acme"): entry(2)})
    assert "1:acme:value:" in fails("show", name, keys.digest("a", {}))


def test_show_takes_a_namespace(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    fill(name, {stored_key("a"): entry(1), stored_key("a", "acme"): entry(2)})
    digest = keys.digest("a", {})
    assert read("show", name, digest, "--namespace", "acme")["namespace"] == "acme"
    assert read("show", name, digest, "--namespace", "")["namespace"] == ""


def test_delete_removes_exactly_one_entry(path: str) -> None:
    digest = digest_of("claude")
    assert f"1::value:{digest}.1" in fails("delete", path, digest[:10])
    assert "no entry" in fails("delete", path, "0" * 64)
    assert len(rows(path)) == 4
    key = f"1::value:{digest}"
    assert read("delete", path, key) == {"removed": 1, "key": key}
    assert run("delete", path, f"{digest}.1").stdout == "removed 1 entry\n"
    assert {row[1] for row in rows(path)} == {
        f"1::value:{digest_of('gpt-5-mini')}",
        read("show", path, "1:acme:")["key"],
    }


def test_delete_takes_a_namespace(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    fill(name, {stored_key("a"): entry(1), stored_key("a", "acme"): entry(2)})
    digest = keys.digest("a", {})
    assert "more than one" in fails("delete", name, digest)
    assert read("delete", name, digest, "--namespace", "acme")["removed"] == 1
    assert held(name).keys() == {stored_key("a")}


def test_typed_values_are_shown_as_they_are_stored(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    fill(name, {stored_key("a"): entry(Decimal("1.50"))})
    assert "1.50" in json.dumps(read("show", name, keys.digest("a", {}), "--value")["value"])


# -- Nothing is told that was not asked for, and looking leaves no trace


LOOKING = (["stats"], ["list"], ["list", "--expired"], ["prune", "--dry-run"], ["clear", "--all"])


def test_no_prompt_and_no_answer_is_shown_unasked(path: str) -> None:
    for verb in (*LOOKING, ["prune"], ["import"]):
        for more in ([], ["--json"]):
            arguments = [verb[0], path, *(["-"] if verb[0] == "import" else []), *verb[1:], *more]
            result = runner.invoke(
                app, arguments, input=f'{{"key": "{CANARY}", "{CANARY}": 1}}\n{CANARY}'
            )
            assert "CANARY" not in result.output
    for wanted in (digest_of("claude"), digest_of("claude")[:5], "1:acme:"):
        assert "CANARY" not in runner.invoke(app, ["show", path, wanted]).output


def test_looking_changes_neither_entries_nor_their_order(path: str) -> None:
    before, data = rows(path), Path(path).read_bytes()
    for verb in LOOKING:
        runner.invoke(app, [verb[0], path, *verb[1:]])
    run("show", path, digest_of("gpt-5-mini"), "--value")
    run("export", path, "-")
    assert Path(path).read_bytes() == data
    assert rows(path) == before


def test_unreadable_entries_are_counted_and_left(path: str) -> None:
    db = sqlite3.connect(path)
    db.execute("UPDATE entries SET data = x'00' WHERE key LIKE '%stream%'")
    db.commit()
    db.close()
    with contextlib.closing(SQLiteStore(path)) as store:
        store.put("foreign", Entry(Payload.of("text"), 1.0))
    before = rows(path)
    stats = read("stats", path)
    assert (stats["entries"], stats["unreadable"]) == (
        4,
        1,
    )  # a damaged value counts till it is read
    stats = read("stats", path, "--check")
    assert (stats["entries"], stats["unreadable"]) == (3, 2)
    assert "and 2 that cannot be read" in run("stats", path, "--check").stdout
    assert "left out 2 entries" in run("export", path, "-").stderr
    listed = read("list", path)
    assert (listed["total"], len(listed["entries"])) == (3, 3)
    assert "--limit" not in run("list", path).output
    assert rows(path) == before


def test_a_store_in_use_can_be_read_and_pruned(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    writer = (
        "import sys, time\nfrom llm_cache_mem import LLMCache\ncache ="
        " LLMCache(backend=sys.argv[1], max_size=200, ttl_seconds=1)\nfor i in range(10**9):\n   "
        " cache.put(str(i), 'x' * 2000)\n    cache.get(str(i - 5))\n    i or print('ready',"
        " flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", writer, name], stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            for _ in range(3):
                assert read("stats", name)["unreadable"] == 0
                for line in run("export", name, "-").stdout.splitlines():
                    assert json.loads(line)["value"] == "x" * 2000
                run("prune", name, "--older-than", "0s")
            run("clear", name, "--all", "--yes")
            assert child.poll() is None
        finally:
            child.kill()


# -- prune and clear


def test_prune_removes_expired_entries(path: str) -> None:
    assert read("prune", path, "--dry-run") == {"removed": 1, "dry_run": True}
    assert read("prune", path) == {"removed": 1, "dry_run": False}
    assert read("list", path)["total"] == 3
    assert run("prune", path).stdout == "removed 0 entries\n"


@pytest.mark.parametrize(
    ("more", "left"),
    [
        (["--older-than", "2d"], 3),
        (["--older-than", "0s"], 0),
        (["--older-than", "0s", "--model", "claude"], 2),
        (["--older-than", "0s", "--namespace", "acme"], 3),
        (["--older-than", "0s", "--kind", "stream"], 3),
        (["--model", "claude"], 4),
        (["--model", "gpt-5-mini"], 3),
        (["--older-than", "4d"], 3),
    ],
)
def test_prune_honours_age_and_namespace(path: str, more: list[str], left: int) -> None:
    assert read("prune", path, *more, "--dry-run")["removed"] == 4 - left
    assert read("prune", path, *more)["removed"] == 4 - left
    assert read("list", path)["total"] == left


@pytest.mark.parametrize(
    ("span", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("7d", 604800), ("2w", 1209600), ("0.5h", 1800)],
)
def test_spans_of_time(span: str, seconds: float) -> None:
    assert seconds_in(span) == seconds


@pytest.mark.parametrize("span", ["", "-1d", "7 days", "d", "1d2", "1y", "nan", "1e3", "90"])
def test_a_non_duration_is_rejected(span: str, path: str) -> None:
    with pytest.raises(CommandFailed):
        seconds_in(span)
    assert "7d" in fails("prune", path, f"--older-than={span}", status=2)


def test_clear_removes_a_namespace_or_everything(path: str) -> None:
    assert read("clear", path, "--namespace", "acme", "--yes") == {"removed": 1}
    assert read("list", path)["total"] == 3
    assert run("clear", path, "--namespace", "", "-y").stdout == "removed 3 entries\n"
    assert read("clear", path, "--all", "--yes") == {"removed": 0}


def test_clear_needs_a_target(path: str) -> None:
    fails("clear", path, "--yes", status=2)
    fails("clear", path, "--all", "--namespace", "acme", "--yes", status=2)
    assert read("list", path)["total"] == 4


def test_clear_without_a_terminal_needs_yes(path: str) -> None:
    assert "--yes" in fails("clear", path, "--all", status=2, stdin="y\n")
    assert read("list", path)["total"] == 4


@pytest.mark.parametrize(("reply", "status", "left"), [(b"n\n", 1, 4), (b"y\n", 0, 0)])
def test_clear_asks_on_a_terminal(path: str, reply: bytes, status: int, left: int) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "llm_cache_mem", "clear", path, "--all"]
    with subprocess.Popen(
        command, stdin=end, stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        os.write(terminal, reply)
        _, said = child.communicate(timeout=300)
    os.close(terminal)
    os.close(end)
    assert (child.returncode, read("list", path)["total"]) == (status, left)
    assert b"Remove 4 entries of all namespaces" in said


# -- key


REQUEST = {
    "model": "m",
    "messages": [{"role": "user", "content": "héllo \u2028"}],
    "temperature": 0.5,
    "timeout": 3,
}


def test_key_is_the_key_of_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(REQUEST, ensure_ascii=False), encoding="utf-8")
    params = {name: value for name, value in REQUEST.items() if name != "messages"}
    expected = LLMCache().key(REQUEST["messages"], **params)
    assert run("key", str(file)).stdout == f"{expected}\n"
    assert run("key", "-", stdin=file.read_bytes()).stdout == f"{expected}\n"
    assert run("key", stdin=file.read_bytes()).stdout == f"{expected}\n"
    assert read("key", str(file)) == {"key": expected}


def test_key_honours_ignore_as_the_cache_does() -> None:
    params: dict[str, Any] = {name: value for name, value in REQUEST.items() if name != "messages"}
    expected = LLMCache(ignore=["temperature", "model"]).key(REQUEST["messages"], **params)
    assert (
        run(
            "key", "--ignore", "temperature", "--ignore", "model", stdin=json.dumps(REQUEST)
        ).stdout.strip()
        == expected
    )


def test_key_prints_the_text_that_is_hashed() -> None:
    import hashlib

    text = run("key", "--canonical", stdin=json.dumps(REQUEST)).stdout.removesuffix("\n")
    assert text == json.dumps(
        {name: value for name, value in REQUEST.items() if name != "timeout"}, sort_keys=True
    )
    both = read("key", "--canonical", stdin=json.dumps(REQUEST))
    assert both["canonical"] == text
    assert both["key"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"model": "m"}',
        b"{",
        b'{"messages": NaN}',
        b'{"messages": 1, "messages": 2}',
        b"\xff",
    ],
)
def test_a_non_request_has_no_key_and_is_located(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(data)
    assert "error: stdin" in fails("key", "-", stdin=data)
    assert f"error: {file}" in fails("key", str(file))


def test_key_of_a_request_without_a_wire_form_names_the_place() -> None:
    assert "messages" in fails("key", stdin=json.dumps({"messages": "\ud800"}))


def test_key_of_a_missing_file_fails(tmp_path: Path) -> None:
    assert "nope.json: No such file" in fails("key", str(tmp_path / "nope.json"))


def test_key_loads_neither_tables_nor_a_database() -> None:
    code = (
        "import sys\nsys.argv = ['x', 'key']\nfrom llm_cache_mem.__main__ import main\ntry:\n   "
        " main()\nfinally:\n    print({m for m in ('sqlite3', 'rich.console', 'rich.table',"
        " 'asyncio') if m in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b'{"messages": []}',
        capture_output=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.stdout.endswith(b"\nset()\n"), done


# -- The reader


def test_a_row_deleted_during_iteration_is_left_out(path: str) -> None:
    reader = Reader(path)
    entries = reader.entries()
    next(entries)
    run("clear", path, "--all", "--yes")
    assert list(entries) == []
    assert reader.unreadable == 0
    reader.close()


# -- What all processes have counted


def test_stats_lead_with_the_calls_of_all_processes(path: str) -> None:
    with LLMCache(backend=path) as cache:
        cache.get_or_call(PROMPT, answer, model="claude")
    totals = read("stats", path)["totals"]
    assert (totals["avoided"], totals["misses"], totals["calls"]) == (1, 4, 4)
    assert list(totals["by_namespace"]) == ["", "acme"]
    shown = run("stats", path).stdout
    assert re.search(r"^calls +1 of 5 avoided \(20%\)$", shown, re.MULTILINE)
    assert re.search(r"namespace +\(default\) +1 of 4", shown)
    assert read("stats", path, "--namespace", "acme")["totals"]["avoided"] == 0


def test_stats_hide_the_groups_of_skipped_calls(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    with LLMCache(backend=path, namespace="acme") as cache:
        cache.get_or_call(PROMPT, answer, model="claude")
        with options(namespace="other"):
            skipped = {"model": "claude", "thing": object()}
            cache.get_or_call(PROMPT, lambda messages, **params: "Hi!", **skipped)
    shown = run("stats", path).stdout
    assert " 0 of 0" not in shown
    assert re.search(r"^paid +1 call, ", shown, re.MULTILINE)


def test_list_and_show_tell_hits(path: str) -> None:
    with LLMCache(backend=path) as cache:
        for _ in range(3):
            cache.get_or_call(PROMPT, answer, model="claude")
    first, *others = read("list", path, "--sort", "hits")["entries"]
    assert (first["model"], first["hits"]) == ("claude", 3)
    assert [row["hits"] for row in others] == [0, 0, 0]
    assert "hits       3, the last one" in run("show", path, first["key"]).stdout


def test_clear_all_resets_the_totals_and_a_namespace_does_not(path: str) -> None:
    run("clear", path, "--namespace", "acme", "--yes")
    assert read("stats", path)["totals"]["misses"] == 4
    run("clear", path, "--all", "--yes")
    assert read("stats", path)["totals"]["since"] is None
    assert "none counted yet" in run("stats", path).stdout


def test_stats_of_a_store_without_totals_say_so(tmp_path: Path) -> None:
    path = str(tmp_path / "recordings.jsonl")
    with LLMCache(backend=path) as cache:
        cache.get_or_call(PROMPT, answer, model="claude")
    assert read("stats", path)["totals"] is None
    assert "not counted by this store" in run("stats", path).stdout
    assert "does not count" in fails("list", path, "--sort", "hits", status=2)
