"""Export and import: what leaves a store comes back to the byte, and nothing else comes in."""

import contextlib
import errno
import json
import os
import sys
import time
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import (
    CANARY,
    GOOD,
    PROMPT,
    chunks,
    entry,
    fails,
    fill,
    held,
    process,
    read,
    rows,
    run,
    stored_key,
)

from llm_cache_mem import LLMCache, options, register
from llm_cache_mem.stores.sqlite import SQLiteStore
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload


@register
@dataclass
class Verdict:
    label: str
    at: datetime


# -- export and import


@pytest.fixture
def full() -> dict[str, Entry]:
    """Entries with all that an entry can have, for ever and expired, plain and typed."""
    return {
        stored_key("plain"): entry(
            {"content": "ünï\u2028cödé \x00", "numbers": [1, 1.0, 1e300, -0.0, 10**500]},
            expires_at=2000.5,
            model="m",
        ),
        stored_key("none"): entry(
            None,
            usage=(1, 2, 3, 4, 5),
            cost_usd=0.1 + 0.2,
            seconds=1 / 3,
            request=b'{"messages": "x"}',
        ),
        stored_key("typed"): entry(
            (
                Verdict("good", datetime(2026, 1, 2, tzinfo=UTC)),
                b"\x00",
                {1: float("nan")},
                "\ud800",
            )
        ),
        stored_key("s", "acme/é", "stream") + ".3": entry(["a"], stored_at=time.time() + 0.123456),
        stored_key("long", "n" * 300): entry("x", request=b"\xff\xfe"),
        stored_key("wrapper"): entry({"$llm-cache-mem": {"$tuple": []}}),
    }


def test_exports_round_trip_byte_for_byte(tmp_path: Path, full: dict[str, Entry]) -> None:
    first, second, file = (
        str(tmp_path / "a.db"),
        str(tmp_path / "b.db"),
        str(tmp_path / "all.jsonl"),
    )
    fill(first, full)
    run("export", first, file)
    assert read("import", second, file) == {"imported": 6, "kept": 0, "expired": 0, "bad_lines": 0}
    assert held(second) == held(first)
    run("export", second, "--force", file + "2")
    assert Path(file + "2").read_bytes() == Path(file).read_bytes(), "the order of use too"


def test_typed_values_pass_through_processes_without_the_class(
    tmp_path: Path, full: dict[str, Entry]
) -> None:
    first, second = str(tmp_path / "a.db"), str(tmp_path / "b.db")
    fill(first, full)
    exported = process("export", first, "-")
    assert exported.returncode == 0
    imported = process("import", second, "-", input=exported.stdout)
    assert (imported.returncode, imported.stderr) == (0, b"")
    assert held(second) == held(first)
    store = SQLiteStore(second)
    found = store.get(stored_key("typed"))
    assert found is not None
    assert found.payload.decode()[0] == Verdict("good", datetime(2026, 1, 2, tzinfo=UTC))
    store.close()


def test_a_line_has_the_fields_that_are_promised(path: str) -> None:
    line = (
        json.loads(run("export", path, "-", "--expired").stdout)
        if False
        else json.loads(run("export", path, "-").stdout.splitlines()[0])
    )
    assert list(line) == [
        "key",
        "stored_at",
        "expires_at",
        "model",
        "usage",
        "cost_usd",
        "seconds",
        "value",
    ]
    assert line["usage"] == {
        **{"input_tokens": 1000, "output_tokens": 100, "cache_read_tokens": 0},
        **{"cache_write_tokens": 0, "cache_write_1h_tokens": 0},
    }
    assert line["value"]["content"] == CANARY


def test_imported_entries_equal_the_originals(tmp_path: Path, path: str) -> None:
    other = str(tmp_path / "other.db")
    run("import", other, "-", stdin=run("export", path, "-").stdout_bytes)
    with LLMCache(backend=other) as cache, options(namespace="acme"):
        first, _ = cache.get_or_call(PROMPT, chunks, model="gpt-5-mini", stream=True)
        assert first["choices"][0]["delta"]["content"] == CANARY
        assert cache.stats().hits == 1


def test_export_takes_the_filters_of_list(path: str) -> None:
    for more, count in (
        (["--namespace", "acme"], 1),
        (["--model", "claude"], 2),
        (["--kind", "stream"], 1),
    ):
        assert run("export", path, "-", *more).stdout.count("\n") == count


def test_import_into_another_namespace(tmp_path: Path, path: str) -> None:
    other, long = str(tmp_path / "other.db"), "n" * 300
    lines = run("export", path, "-").stdout_bytes
    for namespace in ("globex", long):
        assert read_import(other, lines, "--namespace", namespace)["imported"] == 4
        assert read("list", other, "--namespace", namespace)["total"] == 4
    with LLMCache(backend=other, namespace="globex") as cache:
        assert cache.get(PROMPT, model="claude")["content"] == CANARY
        with options(sample=1):
            assert cache.get(PROMPT, model="claude")["content"] == CANARY


def read_import(path: str, lines: bytes, *more: str) -> Any:
    return json.loads(run("import", path, "-", "--json", *more, stdin=lines).stdout)


def test_import_keeps_newer_entries_by_default(tmp_path: Path) -> None:
    name, key = str(tmp_path / "cache.db"), stored_key("a")
    fill(name, {key: entry("here", stored_at=1000.0)})

    def line(stored_at: float) -> bytes:
        return json.dumps(
            {"key": key, "stored_at": stored_at, "value": f"from {stored_at}"}
        ).encode()

    for stored_at, more, value in (
        (999, (), "here"),
        (1000, (), "here"),
        (1001, (), "from 1001"),
        (5, ("--overwrite",), "from 5"),
    ):
        counts = read_import(name, line(stored_at), *more)
        assert json.loads(held(name)[key][0]) == value
        assert counts["kept"] == (value == "here")


BAD_LINES: dict[str, tuple[Any, str]] = {
    "not json": (b"{oops", "not JSON"),
    "not utf-8": (b"\xff\xfe", "UTF-8"),
    "not an object": ([1], "not a JSON object"),
    "two values": (b"{} {}", "not JSON"),
    "no key": ({"stored_at": 1, "value": 1}, "'key' is missing"),
    "no value": ({k: v for k, v in GOOD.items() if k != "value"}, "'value' is missing"),
    "foreign key": (GOOD | {"key": "../../etc/passwd"}, "not a key"),
    "key of no string": (GOOD | {"key": 7}, "not a string"),
    "key of glob": (GOOD | {"key": "1:*:value:" + "a" * 64}, "not a key"),
    "endless key": (GOOD | {"key": f"1:{'n' * 300}:value:" + "a" * 64}, "more than 250"),
    "newer schema": (GOOD | {"key": "2::value:" + "a" * 64}, "schema 2"),
    "unknown field": (GOOD | {"expire_at": 7}, "a field that is none of"),
    "stored at null": (GOOD | {"stored_at": None}, "'stored_at'"),
    "stored at true": (GOOD | {"stored_at": True}, "'stored_at'"),
    "stored at text": (GOOD | {"stored_at": "1"}, "'stored_at'"),
    "stored at never": (json.dumps(GOOD).replace("1.5", "1e999").encode(), "'stored_at'"),
    "stored at beyond": (json.dumps(GOOD).replace("1.5", "1" + "0" * 400).encode(), "'stored_at'"),
    "too many digits": (json.dumps(GOOD).replace("1.5", "1" * 5000).encode(), "digits"),
    "nan": (json.dumps(GOOD).replace("[1]", "[NaN]").encode(), "NaN"),
    "infinite value": (json.dumps(GOOD).replace("[1]", "[1e999]").encode(), "'value'"),
    "lone surrogate": (json.dumps(GOOD | {"value": "\ud800"}).encode(), "'value'"),
    "surrogate in request": (json.dumps(GOOD | {"request": "\ud800"}).encode(), "'request'"),
    "name twice": (b'{"key": "x", "key": "y"}', "twice"),
    "deep": (b"[" * 100_000, "deeply"),
    "model": (GOOD | {"model": ["m"]}, "'model'"),
    "usage": (GOOD | {"usage": [1, 2]}, "'usage'"),
    "usage of text": (GOOD | {"usage": {"input_tokens": "1", "output_tokens": 2}}, "'usage'"),
    "usage of others": (
        GOOD | {"usage": {"input_tokens": 1, "output_tokens": 2, "more": 3}},
        "'usage'",
    ),
    "usage beyond": (GOOD | {"usage": {"input_tokens": 2**63, "output_tokens": 2}}, "'usage'"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_and_stops_the_import_or_is_skipped(tmp_path: Path, name: str) -> None:
    bad, reason = BAD_LINES[name]
    path = str(tmp_path / "cache.db")
    data = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    lines = b"\n".join(
        (
            json.dumps(GOOD).encode(),
            b"",
            data,
            json.dumps(GOOD | {"key": "1::value:" + "b" * 64}).encode(),
        )
    )
    said = fails("import", path, "-", stdin=lines)
    assert "line 3: " in said
    assert reason in said
    assert "imported 1 entry before it" in said
    assert len(held(path)) == 1
    result = run("import", path, "-", "--on-error", "skip", stdin=lines)
    assert "line 3: " in result.stderr
    assert (
        result.stdout == "imported 1 entry, kept 1 that were as new or newer, skipped 1 bad line\n"
    )
    assert len(held(path)) == 2


@pytest.mark.parametrize("name", ["copy.db", "copy.jsonl"])
@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("import STORE FILE", 1),
        ("import STORE FILE --on-error skip", 0),
        ("import --from vcr FILE STORE", 1),
        ("import --from vcr nowhere STORE", 1),
    ],
)
def test_an_import_of_nothing_leaves_no_new_store(
    tmp_path: Path, name: str, command: str, status: int
) -> None:
    places = {"FILE": str(tmp_path / "source"), "STORE": str(tmp_path / name)}
    (tmp_path / "source").write_text("{}\n")
    run(*(places.get(word, word) for word in command.split()), status=status)
    assert os.listdir(tmp_path) == ["source"]


def test_an_overlong_line_is_truncated_and_not_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_cache_mem.cli.jsonl._LONGEST_LINE", 1000)
    path = str(tmp_path / "cache.db")
    long = json.dumps(GOOD | {"value": "x" * 5000}).encode()
    result = run(
        "import", path, "-", "--on-error", "skip", stdin=long + b"\n" + json.dumps(GOOD).encode()
    )
    assert "line 1: " in result.stderr
    assert len(held(path)) == 1


def test_a_value_over_the_limit_is_a_bad_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_cache_mem.values.entry.MAX_BODY_BYTES", 100)
    said = fails(
        "import", str(tmp_path / "cache.db"), "-", stdin=json.dumps(GOOD | {"value": "x" * 200})
    )
    assert "line 1: " in said


def test_import_never_imports_modules_named_in_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    value = {"$llm-cache-mem": {"$model": ["antigravity:Thing", {}]}}
    assert "antigravity" not in sys.modules
    run("import", path, "-", stdin=json.dumps(GOOD | {"value": value}))
    assert read("show", path, "a" * 64, "--value")["value"] == value
    assert "antigravity" not in sys.modules


def test_reformatted_lines_are_read(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    line = (
        "\ufeff"
        + '  {"value" : {"b":1 , "a" :[ ]}, "stored_at": 7, "key": "1::value:'
        + "a" * 64
        + '"}  \r\n'
    )
    assert read_import(path, line.encode())["imported"] == 1
    assert held(path)["1::value:" + "a" * 64][:2] == (b'{"b":1,"a":[]}', 7.0)


def test_an_expired_entry_is_imported_too_for_replay(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    lines = [
        json.dumps(GOOD | {"key": f"1::value:{i:064x}", "expires_at": 2.0}) for i in range(200)
    ]
    run("import", path, "-", stdin="\n".join(lines))
    assert read("stats", path)["expired"] == 200


def fill_quickly(path: str, count: int, value: str) -> None:
    payload = Payload.of(value)
    with contextlib.closing(SQLiteStore(path)) as store:
        store.put_many({stored_key(str(i)): Entry(payload, 1000.0) for i in range(count)})


def test_20_000_entries_are_exported_in_seconds(tmp_path: Path) -> None:
    name, target = str(tmp_path / "cache.db"), tmp_path / "all.jsonl"
    fill_quickly(name, 20_000, "x" * 1400)
    began = time.process_time()
    run("export", name, str(target))
    assert time.process_time() - began < 10
    assert target.stat().st_size > 28_000_000


def test_export_and_import_hold_little_in_memory(tmp_path: Path) -> None:
    name, target = str(tmp_path / "cache.db"), str(tmp_path / "all.jsonl")
    fill_quickly(name, 1000, "x" * 40_000)
    for arguments in (["export", name, target], ["import", str(tmp_path / "other.db"), target]):
        tracemalloc.start()
        run(*arguments)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10_000_000, "of 40 MB"


def test_an_exported_file_is_private_and_replaces_only_by_force(path: str, tmp_path: Path) -> None:
    target = tmp_path / "all.jsonl"
    run("export", path, str(target))
    assert target.stat().st_mode & 0o777 == 0o600
    target.write_text("mine")
    assert "--force" in fails("export", path, str(target))
    assert target.read_text() == "mine"
    run("export", path, str(target), "--force")
    assert target.read_text() != "mine"
    assert sorted(p.name for p in tmp_path.glob("*jsonl*")) == ["all.jsonl"], (
        "no temporary file is left"
    )


def test_export_never_writes_over_the_store(path: str) -> None:
    before = rows(path)
    for target in (path, os.path.relpath(path)):
        assert "the store itself" in fails("export", path, target, "--force", status=2)
    assert rows(path) == before


def test_an_export_that_fails_leaves_what_was_there(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "all.jsonl"
    target.write_text("mine")

    def full_disk(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("llm_cache_mem.cli.transfer.to_line", full_disk)
    assert "No space left" in fails("export", path, str(target), "--force")
    assert target.read_text() == "mine"
    assert [p.name for p in tmp_path.glob("*jsonl*")] == ["all.jsonl"]


def test_export_to_a_device_or_a_link(path: str, tmp_path: Path) -> None:
    run("export", path, os.devnull)
    (tmp_path / "link").symlink_to(tmp_path / "real.jsonl")
    run("export", path, str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real.jsonl").is_file()


def test_export_warns_of_secrets_in_the_clear(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    fill(name, {stored_key("a"): entry("x"), stored_key("b"): entry({"clientSecret": "hunter2"})})
    result = run("export", name, "-")
    assert "warning: 1 of them hold what looks like a secret" in result.stderr
    fill(str(tmp_path / "other.db"), {stored_key("a"): entry("x")})
    assert "warning" not in run("export", str(tmp_path / "other.db"), "-").stderr
