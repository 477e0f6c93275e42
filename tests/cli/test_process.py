"""The command as a process: what cannot be a store, statuses, pipes, terminals, permissions."""

import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import GOOD, ROOT, entry, fails, fill, process, read, run, stored_key

from llm_cache_mem.keys import digest
from llm_cache_mem.stores import open_store
from llm_cache_mem.stores.urls import locate

# -- What cannot be a store


VERBS: list[Callable[[str], list[str]]] = [
    lambda url: ["stats", url],
    lambda url: ["list", url],
    lambda url: ["show", url, "abc"],
    lambda url: ["prune", url],
    lambda url: ["clear", url, "--all", "--yes"],
    lambda url: ["export", url, "-"],
]


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_database_is_not_made(tmp_path: Path, verb: Callable[[str], list[str]]) -> None:
    for name in ("nope.db", "folder/nope.db"):
        assert "no such database" in fails(*verb(str(tmp_path / name)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", [*VERBS, lambda url: ["import", url, "-"]])
def test_a_store_that_is_none_is_refused_and_left_alone(
    tmp_path: Path, verb: Callable[[str], list[str]]
) -> None:
    corrupt, foreign, damaged = (
        tmp_path / "corrupt.db",
        tmp_path / "foreign.db",
        tmp_path / "damaged.db",
    )
    corrupt.write_bytes(b"this is no database" * 100)
    make_database(foreign, "CREATE TABLE theirs (x)")
    fill(str(damaged), {stored_key("a"): entry("x")})
    make_database(
        damaged,
        "PRAGMA writable_schema = ON",
        "DELETE FROM sqlite_schema WHERE name = 'entries_added'",
    )
    newer = tmp_path / "newer.db"
    fill(str(newer), {stored_key("a"): entry("x")})
    make_database(newer, "PRAGMA user_version = 99")
    expected = {
        corrupt: "not a SQLite database",
        foreign: "another application",
        newer: "newer version",
        damaged: "damaged",
        tmp_path: "directory",
    }
    before = {file: file.read_bytes() for file in expected if file.is_file()}
    for file, reason in expected.items():
        assert reason in fails(*verb(f"sqlite:///{file}"), stdin=json.dumps(GOOD))
    assert before == {file: file.read_bytes() for file in before}
    assert not list(tmp_path.glob("*.corrupt-*"))


def make_database(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def test_an_empty_file_holds_no_entries_but_can_be_imported_into(tmp_path: Path) -> None:
    name = tmp_path / "cache.db"
    name.touch()
    assert "no entries" in fails("stats", str(name))
    assert not name.stat().st_size
    run("import", str(name), "-", stdin=json.dumps(GOOD))
    assert read("stats", str(name))["entries"] == 1


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:secret@host",
        "nope",
        "sqlite://",
        "sqlite:///x.db?mode=ro",
        "memory",
        "sqlite://:memory:",
    ],
)
def test_a_url_that_names_no_database_is_a_wrong_command_line(url: str) -> None:
    for verb in VERBS:
        assert "secret" not in fails(*verb(url), status=2)


def test_a_command_without_a_store_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("LLM_CACHE_MEM_URL", value)
        for arguments in (
            ["stats"],
            ["list"],
            ["prune"],
            ["clear", "--all"],
            ["show", "abc"],
            ["export", "-"],
            ["import", "-"],
        ):
            said = fails(*arguments, status=2)
            assert "LLM_CACHE_MEM_URL" in said
            if len(arguments) == 1 or "--all" in arguments:
                assert "./.llm_cache_mem.db" in said  # the store of run and map


@pytest.mark.parametrize(
    "form",
    ["{}", "sqlite:///{}", "sqlite:////{}", "./{}", "~/{}", "sqlite://~/{}", "sqlite://./{}"],
)
def test_urls_mean_the_same_as_for_the_cache(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    url = form.format(
        f"{tmp_path}/cache.db".lstrip("/")
        if form.endswith("//{}") and form.count("/") > 3
        else "cache.db"
    )
    opened = open_store(url)
    assert opened.name == f"sqlite:///{locate(url)[1]}"
    opened.store.close()


def test_a_file_in_this_folder_needs_no_ending(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(path))
    os.rename("cache.db", "cache")
    assert read("stats", "cache")["entries"] == 4


def test_an_unwritable_target_is_an_error(path: str, tmp_path: Path) -> None:
    assert "cannot be written" in fails("export", path, str(tmp_path / "no" / "all.jsonl"))
    assert "is a directory" in fails("export", path, str(tmp_path))
    (tmp_path / "file").write_text("")
    assert "cannot be used" in fails(
        "import", str(tmp_path / "file" / "x.db"), "-", stdin=json.dumps(GOOD)
    )
    assert "No such file" in fails("import", str(tmp_path / "new.db"), str(tmp_path / "nope.jsonl"))
    assert not (tmp_path / "new.db").exists()


def as_nobody(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command in a process that permissions apply to, even if this one runs as root; it has
    loaded what it needs before."""
    code = (
        # Python 3.13 loads urllib for its first URI
        "import contextlib, io, os, urllib.parse\nfrom llm_cache_mem.cli import app\nwith"
        " contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):"
        " app.app(['stats', '/nope.db'])\nif not os.getuid(): os.setuid(65534)\napp.main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )


def test_a_database_in_a_read_only_folder_is_readable(path: str) -> None:
    folder = Path(path).parent
    for parent in (folder, *folder.parents)[:4]:
        if parent.stat().st_uid == os.getuid() and parent.name.startswith(
            ("pytest", "test_", "popen")
        ):
            parent.chmod(0o755)
    for file in folder.glob("cache.db-*"):
        file.unlink()
    os.chmod(path, 0o444)
    os.chmod(folder, 0o555)
    try:
        done = as_nobody("stats", path, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["entries"] == 4
        refused = as_nobody("prune", path)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: ")
    finally:
        os.chmod(folder, 0o755)


# -- The process: statuses, pipes, terminals


def test_statuses_and_streams_of_the_real_command(path: str) -> None:
    good = process("stats", path)
    assert (good.returncode, good.stderr) == (0, b"")
    missing = process("stats", path + "x.db")
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert missing.stderr.startswith(b"error: ")
    assert process("stats", path, "--nope").returncode == 2
    assert process("list", path, "--limit", "-1").returncode == 2
    assert process("nope").returncode == 2
    version = process("--version")
    assert re.fullmatch(rb"llm-cache-mem \d+\.\d+\.\d+\n", version.stdout)


def test_help_of_every_command_is_there() -> None:
    assert "Usage" in run("--help").stdout
    for verb in (
        "stats",
        "list",
        "show",
        "key",
        "keygen",
        "prune",
        "delete",
        "clear",
        "export",
        "import",
    ):
        assert "--help" in run(verb, "-h").stdout


def test_help_wraps_its_paragraphs_and_shows_no_type_of_flags() -> None:
    told = run("list", "--help").stdout
    assert "<bool>" not in told
    assert "\n With model, age, expiry, size, hits, tokens, cost and, where requests are" in told
    assert "\n stored, the beginning of the prompt." in told


def test_a_reader_that_has_read_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    fill(name, {stored_key(str(i)): entry("x" * 100_000) for i in range(30)})
    for arguments in (["export", name, "-"], ["show", name, digest.digest("1", {}), "--value"]):
        command = [sys.executable, "-m", "llm_cache_mem", *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.read(10)
            child.stdout.close()
            assert child.stderr.read() == b""
        assert child.returncode in (0, 1)


def test_an_interrupt_ends_with_130(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llm_cache_mem", "import", str(tmp_path / "cache.db"), "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(json.dumps(GOOD).encode() + b"\n")
        child.stdin.flush()
        while not (tmp_path / "cache.db-wal").exists():
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130
    assert b"Traceback" not in said


def test_an_early_interrupt_exits_with_130() -> None:
    program = """
import sys
class Interrupts:
    def find_spec(self, name, *rest):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from llm_cache_mem.__main__ import main
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"")


def test_a_closed_stdout_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    fill(path, {stored_key("a"): entry("x")})
    command = f"{shlex.quote(sys.executable)} -m llm_cache_mem list {shlex.quote(path)} >&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("columns", ["20", "40", "80"])
def test_a_narrow_terminal_truncates_names_not_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    path = str(tmp_path / "cache.db")
    fill(
        path,
        {
            stored_key("a"): entry(
                "x",
                model="a-model-of-a-long-name",
                usage=(1_234_567, 1, 0, 0, 0),
                cost_usd=12_345.678,
            )
        },
    )
    monkeypatch.setenv("COLUMNS", columns)
    for verb in ("list", "stats"):
        shown = run(verb, path).stdout
        assert "a-model" in shown
        assert "1,234,568" in shown
        assert "$12,345.68" in shown


def in_terminal(*arguments: str, **environment: str) -> bytes:
    """What the command shows on a terminal."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "llm_cache_mem", *arguments]
    surroundings = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")
    }
    with subprocess.Popen(
        command,
        stdout=end,
        stderr=end,
        cwd=ROOT,
        env=surroundings | {"TERM": "xterm"} | environment,
    ) as child:
        os.close(end)
        shown = b""
        while True:
            try:
                more = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            shown += more
    os.close(terminal)
    assert child.returncode == 0
    return shown


def test_colours_are_for_terminals(path: str) -> None:
    assert b"\x1b[1m" in in_terminal("stats", path)
    assert b"\x1b[3" not in in_terminal("stats", path, NO_COLOR="1")
    assert b"\x1b" not in process("stats", path).stdout


def test_long_work_shows_progress_on_a_terminal_only(path: str, tmp_path: Path) -> None:
    name = str(tmp_path / "many.db")
    fill(name, {stored_key(str(i)): entry(1) for i in range(2100)})
    assert b"reading" in in_terminal("stats", name)
    assert b"reading" not in in_terminal("stats", path)
    assert process("stats", name).stderr == b""


def test_a_name_that_the_terminal_cannot_show_is_no_reason_to_fail(tmp_path: Path) -> None:
    name = str(tmp_path / "cache.db")
    fill(name, {stored_key("a"): entry("ü€", model="modèle-€")})
    done = process("list", name, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert rb"mod\xe8le-\u20ac" in done.stdout


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_libraries_name_the_extra(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from llm_cache_mem.__main__ import main;"
        " sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"llm-cache-mem: the command line needs {missing}: pip install 'llm-cache-mem[cli]'\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--namespace", "\udcff"),
        ("prune", "--model", "\udcff"),
        ("import", "-", "--namespace", "\udcff"),
    ],
    ids=str,
)
def test_a_name_that_is_not_utf_8_is_a_wrong_command_line(
    path: str, words: tuple[str, ...]
) -> None:
    done = process(words[0], path, *words[1:], input=json.dumps(GOOD).encode())
    assert done.returncode == 2
    assert b"this is not UTF-8" in done.stderr


def test_no_entry_has_a_key_that_is_not_ascii(path: str) -> None:
    for wanted in ("ü", "\udcff"):
        done = process("show", path, wanted)
        assert (done.returncode, done.stderr[:35]) == (1, b"error: no entry has a key that begi")
