"""JsonlStore: what all stores do, and what a file in git needs: small diffs, no secret, nothing
lost, errors that name the line."""

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from stores.conformance import MakeStore, StoreConformance, entry_of, value_of
from stores.model import StoreMachine, check_against_model, sequences
from stores.processes import in_child

from llm_cache_mem import LLMCache, StoreError
from llm_cache_mem.diagnostics.redaction import Redaction
from llm_cache_mem.stores.jsonl import JsonlStore
from llm_cache_mem.stores.jsonl.fields import BadLine
from llm_cache_mem.stores.jsonl.lines import from_line, has_secret, to_line

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


class TestConformance(StoreConformance):
    bounded = False

    @pytest.fixture
    def make_store(self, fast_folder: Path) -> Iterator[MakeStore]:
        made: list[JsonlStore] = []

        def make(
            *, clock: Callable[[], float], max_size: int | None = None, max_bytes: int | None = None
        ) -> JsonlStore:
            made.append(JsonlStore(fast_folder / f"{len(made)}.jsonl", clock=clock))
            return made[-1]

        yield make
        for store in made:
            store.close()


class JsonlMachine(StoreMachine):
    persistent = True
    by_key = True
    folder: Path

    def open_store(
        self, *, clock: Callable[[], float], max_size: int | None, max_bytes: int | None
    ) -> JsonlStore:
        if not hasattr(self, "store"):
            (self.folder / "model.jsonl").unlink(missing_ok=True)
        return JsonlStore(self.folder / "model.jsonl", clock=clock)


@sequences(60)
def test_it_does_what_the_model_does(fast_folder: Path, number: int, steps: int) -> None:
    JsonlMachine.folder = fast_folder
    check_against_model(JsonlMachine, number, steps)


LINE_BREAKERS = st.sampled_from(
    '\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\ufeff\u202e\x00\x7f\ud800\r\n\t"\\{}$'
)
texts = st.text(st.one_of(LINE_BREAKERS, st.characters()), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=8,
)


# -- What the file looks like


REQUEST = (
    b'{"messages": [{"content": "Who wrote Air?", "role": "user"}], "model": "m", "temperature": 0}'
)


@pytest.fixture
def path(fast_folder: Path) -> Path:
    return fast_folder / "llm.jsonl"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def write(path: Path, *lines: str, end: str = "\n") -> None:
    path.write_bytes("".join(line + end for line in lines).encode())


def line(key: str, answer: Any = "a", **fields: Any) -> str:
    return json.dumps({"key": key, "answer": answer, **fields})


def test_a_line_is_to_be_read_by_people(path: Path) -> None:
    answer = {"role": "assistant", "content": "Bach – «Łódź» 🎈"}
    entry = entry_of(
        answer,
        model="m",
        usage=(3, 4, 0, 0, 0),
        cost_usd=0.5,
        seconds=1.23456,
        request=REQUEST,
        stored_at=1_800_000_000.1236,
    )
    JsonlStore(path).put("k", entry)
    assert (
        path.read_text(encoding="utf-8")
        == '{"key": "k", "model": "m", "request": {"messages": [{"content": "Who wrote Air?",'
        ' "role": "user"}], "model": "m", "temperature": 0}, "answer": {"role": "assistant",'
        ' "content": "Bach – «Łódź» 🎈"}, "usage": {"input_tokens": 3, "output_tokens": 4},'
        ' "cost_usd": 0.5, "seconds": 1.235, "stored_at": "2027-01-15T08:00:00.124Z"}\n'
    )


def test_bytes_that_are_text_are_text_in_the_file(path: Path) -> None:
    values = {
        "text": b"event: message_start\n\ndata: {}\r\n",
        "utf8": "Łódź".encode(),
        "binary": b"\0\xff",
        "empty": b"",
    }
    JsonlStore(path).put("k", entry_of(values))
    assert lines_of(path)[0]["answer"] == {
        "$llm-cache-mem": {
            "text": {"$utf8": "event: message_start\n\ndata: {}\r\n"},
            "utf8": {"$utf8": "Łódź"},
            "binary": {"$bytes": "AP8="},
            "empty": {"$utf8": ""},
        }
    }
    assert value_of(JsonlStore(path).get("k")) == values


@pytest.mark.parametrize(
    "value",
    [
        {"$utf8": "x"},
        {"$bytes": "x"},
        {"a": {"$utf8": 5}, "b": b"1"},
        [{"$utf8": "x"}, (1,)],
        {"$llm-cache-mem": 1},
    ],
)
def test_text_that_looks_like_bytes_round_trips(path: Path, value: Any) -> None:
    JsonlStore(path).put("k", entry_of(value))
    assert value_of(JsonlStore(path).get("k")) == value


@pytest.mark.parametrize(
    "how",
    [{"separators": (",", ":")}, {}, {"indent": 2}, {"indent": 4}, {"separators": (" ,", ": ")}],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_an_http_body_round_trips_through_json(path: Path, how: Any, escaped: bool) -> None:
    key = "1::http:" + "a" * 64
    body = json.dumps(
        {"content": "Łódź \u2028", "n": [1.0, 1, 1e-7, True, None, {}]}, ensure_ascii=escaped, **how
    )
    JsonlStore(path).put(key, entry_of({"status": 200, "headers": [["a", "b"]], "text": body}))
    assert value_of(JsonlStore(path).get(key)) == {
        "status": 200,
        "headers": [["a", "b"]],
        "text": body,
    }
    known = how.get("indent") != 4 and how.get("separators") != (" ,", ": ")
    assert (type(lines_of(path)[0]["answer"]["text"]) is dict) == known


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    body=texts
    | st.sampled_from(
        [
            '{"a":1,"a":2}',
            "[1e400]",
            "[NaN]",
            "[1.00]",
            '{"b":1, "a":2}',
            "[]",
            "{}",
            "[1]\n",
            "5",
            '{"$json":1}',
        ]
    )
)
def test_any_text_in_an_exchange_comes_back_to_the_byte(body: str) -> None:
    key = "1::http:" + "a" * 64
    _, entry = from_line(
        to_line(key, entry_of({"status": 200, "headers": [], "text": body}), Redaction())
    )
    assert entry.payload.decode()["text"] == body


def test_a_non_exchange_is_unchanged(path: Path) -> None:
    value = {"status": 200, "text": {"$json": [1]}, "other": '{"a":1}'}
    JsonlStore(path).put("1::value:" + "a" * 64, entry_of(value))
    assert lines_of(path)[0]["answer"] == value
    assert value_of(JsonlStore(path).get("1::value:" + "a" * 64)) == value


def test_lines_are_sorted_by_key(path: Path, fast_folder: Path) -> None:
    for name in "cab":
        JsonlStore(path).put(name, entry_of(name))
    other = JsonlStore(fast_folder / "other.jsonl")
    for name in "bca":
        other.put(name, entry_of(name))
    assert [found["key"] for found in lines_of(path)] == ["a", "b", "c"]
    assert path.read_bytes() == (fast_folder / "other.jsonl").read_bytes()


def test_recording_the_same_answer_again_does_not_touch_the_file(path: Path) -> None:
    store = JsonlStore(path)
    store.put("k", entry_of("same", seconds=1.0, request=REQUEST, stored_at=1_800_000_000.0))
    before = path.read_bytes(), path.stat().st_ino
    store.put(
        "k", entry_of("same", seconds=9.0, cost_usd=1.0, request=REQUEST, stored_at=1_900_000_000.0)
    )
    assert (path.read_bytes(), path.stat().st_ino) == before
    found = store.get("k")
    assert found is not None
    assert found.stored_at == 1_900_000_000.0  # to this process it is as fresh as it is


@pytest.mark.parametrize(
    "change",
    [
        {"value": "other"},
        {"request": b'{"messages": []}'},
        {"model": "n"},
        {"usage": (1, 1, 0, 0, 0)},
        {"expires_at": 2e9},
    ],
)
def test_recording_another_answer_replaces_its_line_and_no_other(
    path: Path, change: dict[str, Any]
) -> None:
    store = JsonlStore(path)
    for key in "abc":
        store.put(key, entry_of("same", request=REQUEST))
    before = path.read_bytes().splitlines()
    changed = {"request": REQUEST} | change
    store.put("b", entry_of(changed.pop("value", "same"), **changed))
    after = path.read_bytes().splitlines()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]


def test_lines_of_other_writers_stay_byte_for_byte(path: Path) -> None:
    by_hand = '{ "answer" : 1,"key":"b", "note": "checked by Ann" }'
    write(path, by_hand, line("z"))
    JsonlStore(path).put("a", entry_of(1))
    assert path.read_text().splitlines()[1:] == [by_hand, line("z")]


def test_line_ends_stay_those_of_the_file(path: Path) -> None:
    write(path, line("a"), line("c"), end="\r\n")
    JsonlStore(path).put("b", entry_of(1))
    data = path.read_bytes()
    assert (data.count(b"\r\n"), data.count(b"\n")) == (3, 3)


def test_a_byte_order_mark_and_blank_lines_do_no_harm(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf\n" + line("a").encode() + b"\n   \n\n" + line("b").encode())
    assert JsonlStore(path).size() == 2


def test_a_line_may_be_written_by_hand(path: Path) -> None:
    write(
        path,
        '{"key": "k", "answer": {"content": "Bach"}}',
        '{"key": "t", "answer": 1, "stored_at": "2026-03-01T12:00:00+02:00"}',
    )
    store = JsonlStore(path)
    assert value_of(store.get("k")) == {"content": "Bach"}
    found = store.get("t")
    assert found is not None
    assert found.stored_at == 1_772_359_200.0


@settings(deadline=None, max_examples=300)
@given(value=values, model=st.none() | texts)
def test_every_value_comes_back_from_one_line(value: Any, model: str | None) -> None:
    stored = entry_of(value, model=model)
    assume(not has_secret("k", stored, Redaction()))  # names such as SshKey come up by themselves
    text = to_line("k", stored, Redaction())
    assert b"\n" not in text
    assert len(text.decode().splitlines()) == 1  # nor for those who know more line ends
    _, entry = from_line(text)
    assert entry.payload.decode() == value
    assert to_line("k", entry, Redaction()) == text


@settings(deadline=None, max_examples=300)
@given(
    data=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.floats() | texts,
        lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
        max_leaves=6,
    )
)
def test_a_malformed_line_is_reported_as_such(data: Any) -> None:
    if isinstance(data, dict):
        data = (
            {"key": "k", "answer": 1}
            | data
            | {
                name: data[""]
                for name in ("usage", "seconds", "request", "stored_at")
                if "" in data
            }
        )
    line = data if isinstance(data, bytes) else json.dumps(data).encode()
    with contextlib.suppress(BadLine):
        from_line(line)


# -- What hands and merges break


BROKEN = {
    "cut short": ('{"key": "b", "answ', "line 2: not JSON"),
    "no object": ("[1]", "line 2: not a JSON object"),
    "no key": ('{"answer": 1}', "line 2: 'key' is missing"),
    "no answer": ('{"key": "b"}', "line 2: 'answer' is missing"),
    "a key twice": (line("a", "other"), "line 2: the same key as in line 1"),
    "a conflict": ("<<<<<<< HEAD", "line 2: a merge conflict that is not resolved"),
    "a name twice": (
        '{"key": "b", "answer": 1, "answer": 2}',
        "line 2: a name twice in one object",
    ),
    "NaN": ('{"key": "b", "answer": NaN}', "line 2: NaN is not JSON"),
    "infinite": (
        '{"key": "b", "answer": 1e999}',
        "line 2: 'answer' has a number that JSON cannot hold",
    ),
    "a time": (
        '{"key": "b", "answer": 1, "stored_at": "yesterday"}',
        "line 2: 'stored_at' is not a time",
    ),
    "usage": (
        '{"key": "b", "answer": 1, "usage": {"tokens": 1}}',
        "line 2: 'usage' has other fields",
    ),
    "deep": ('{"key": "b", "answer": ' + "[" * 100_000, "line 2: nested too deeply"),
    "digits": (
        '{"key": "b", "answer": ' + "1" * 10_000 + "}",
        "line 2: a number with too many digits",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_line_is_named_and_never_written_over(path: Path, what: str) -> None:
    broken, reason = BROKEN[what]
    write(path, line("a"), broken, line("c"))
    before = path.read_bytes()
    with pytest.raises(StoreError, match=re.escape(f"llm.jsonl, {reason}")):
        JsonlStore(path)
    write(path, line("a"))
    store = JsonlStore(path)
    path.write_bytes(before)
    for use in (
        lambda: store.get("a"),
        lambda: store.put("d", entry_of(1)),
        lambda: store.clear(),
        store.size,
        store.entries,
    ):
        with pytest.raises(StoreError, match=re.escape(reason)):
            use()
    assert path.read_bytes() == before
    write(path, line("a"), line("c"))
    assert store.size() == 2  # repaired, and it goes on


def test_bytes_that_are_no_text_are_named_too(path: Path) -> None:
    path.write_bytes(line("a").encode() + b'\n{"key": "\xff"}\n')
    with pytest.raises(StoreError, match="line 2: not UTF-8"):
        JsonlStore(path)


def test_the_lines_of_a_conflict_are_all_named(path: Path) -> None:
    write(path, "<<<<<<< HEAD", line("a", 1), "=======", line("a", 2), ">>>>>>> branch")
    with pytest.raises(StoreError) as caught:
        JsonlStore(path)
    assert [int(number) for number in re.findall(r"[,;] line (\d+):", str(caught.value))] == [
        1,
        3,
        4,
        5,
    ]


def test_an_error_reveals_no_recording(path: Path) -> None:
    for broken, _ in BROKEN.values():
        write(path, line("a", "CANARY"), broken.replace("b", "CANARY"))
        with pytest.raises(StoreError) as caught:
            JsonlStore(path)
        assert "CANARY" not in str(caught.value)


def test_broken_recordings_fail_at_once(path: Path) -> None:
    write(path, "oops")
    with pytest.raises(StoreError, match="line 1"):
        LLMCache(backend=f"jsonl:///{path}")


# -- Files and folders


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(path: Path) -> None:
    umask = os.umask(0)
    try:
        JsonlStore(path).put("a", entry_of(1))
        assert mode_of(path) == 0o600
        path.chmod(0o644)
        JsonlStore(path).put("b", entry_of(1))
        assert mode_of(path) == 0o644
    finally:
        os.umask(umask)


def test_nothing_but_the_file_is_left_in_the_folder(path: Path) -> None:
    store = JsonlStore(path)
    store.put("a", entry_of(1))
    store.delete("a")
    store.close()
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_looking_makes_no_file(path: Path) -> None:
    store = JsonlStore(path)
    assert (store.get("k"), store.size(), store.clear(), store.purge(), list(store.entries())) == (
        None,
        0,
        0,
        0,
        [],
    )
    assert list(path.parent.iterdir()) == []


def test_missing_folders_are_created_only_on_request(path: Path) -> None:
    link = path.parent / "link.jsonl"
    target = path.parent / "deep" / "er" / "llm.jsonl"
    link.symlink_to(target)
    with pytest.raises(StoreError, match="does not exist"):
        JsonlStore(link)
    JsonlStore(link, make_folder=True).put("a", entry_of(1))
    assert link.is_symlink()
    assert JsonlStore(target).size() == 1


def test_a_file_that_was_removed_is_begun_anew(path: Path) -> None:
    store = JsonlStore(path)
    store.put("a", entry_of(1))
    path.unlink()
    assert store.get("a") is None
    store.put("b", entry_of(1))
    assert [key for key, _ in store.entries()] == ["b"]


def test_a_non_file_is_rejected(path: Path) -> None:
    with pytest.raises(StoreError, match="is not a file"):
        JsonlStore(path.parent)
    os.mkfifo(path)
    with pytest.raises(StoreError, match="is not a file"):
        JsonlStore(path)
    with pytest.raises(ValueError, match="path"):
        JsonlStore("")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_recordings_are_readable_from_a_read_only_disk(path: Path) -> None:
    JsonlStore(path).put("a", entry_of("answer"))
    path.chmod(0o444)
    for folder in (path.parent, *path.parent.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(0o555)

    def as_nobody() -> list[str]:
        store = JsonlStore(path)
        found = [value_of(store.get("a"))]
        try:
            store.put("b", entry_of(1))
        except StoreError as exc:
            found.append(exc.reason)
        return found

    assert in_child(as_nobody, uid=NOBODY) == ["answer", f"{path}: Permission denied"]
    assert JsonlStore(path).size() == 1


def test_a_full_disk_leaves_the_file_as_it_was(path: Path) -> None:
    JsonlStore(path).put("a", entry_of("x" * 1000))
    before = path.read_bytes()

    def child() -> str:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            JsonlStore(path).put("b", entry_of("x" * 10_000))
        except StoreError as exc:
            return exc.reason
        return "it was written"

    assert "File too large" in in_child(child)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == [path.name]


# -- Many at once


WRITER = """
import sys
from llm_cache_mem.values.payload import Payload
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.stores.jsonl import JsonlStore
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = JsonlStore(path)
for number in range(count):
    store.put(f"1::value:{name}-{number}", Entry(Payload.of([name, number, "x" * 500]), 1.8e9))
    print(number, flush=True)
"""


def start_writer(path: Path, name: str, count: int) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_concurrent_recorders_of_one_file_lose_nothing(path: Path) -> None:
    writers = [start_writer(path, f"w{number}", 60) for number in range(4)]
    for writer in writers:
        _, _ = writer.communicate(timeout=300)
        assert writer.returncode == 0
    assert {
        value_of(entry)[0] + str(value_of(entry)[1]) for _, entry in JsonlStore(path).entries()
    } == {f"w{writer}{number}" for writer in range(4) for number in range(60)}


@pytest.mark.parametrize("kills", [pytest.param(8), pytest.param(60, marks=pytest.mark.slow)])
def test_kill_9_while_writing_loses_no_acknowledged_write(path: Path, kills: int) -> None:
    acknowledged: set[str] = set()
    store = JsonlStore(path)
    for turn in range(kills):
        with start_writer(path, f"t{turn}", 100_000) as writer:
            assert writer.stdout is not None
            for _ in range(3 + turn % 7):
                acknowledged.add(f"1::value:t{turn}-{writer.stdout.readline().strip()}")
            writer.kill()
            rest = writer.stdout.read().split("\n")[:-1]  # a number may be cut off
            acknowledged |= {f"1::value:t{turn}-{number}" for number in rest}
        held = {key for key, _ in store.entries()}  # StoreError if a line were half
        assert acknowledged <= held
        store.put(
            f"after {turn}", entry_of(1)
        )  # the lock of the dead is free, its half file no obstacle
        acknowledged.add(f"after {turn}")


def test_a_reader_sees_whole_files_while_others_write(path: Path) -> None:
    store = JsonlStore(path)
    stop = threading.Event()

    def write_on() -> None:
        number = 0
        while not stop.is_set():
            JsonlStore(path).put(f"k{number % 50}", entry_of([number, "x" * 2000]))
            number += 1

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for number in range(2000):
            entry = store.get(f"k{number % 50}")
            assert entry is None or len(value_of(entry)) == 2
    finally:
        stop.set()
        writer.join()


def test_recordings_of_another_process_are_seen_at_once(path: Path) -> None:
    mine, other = JsonlStore(path), JsonlStore(path)
    for number in range(200):  # same size, same instant: only a look at the file itself can tell
        other.put("k", entry_of(f"{number:04}"))
        assert value_of(mine.get("k")) == f"{number:04}"
        mine.put("m", entry_of(f"{number:04}"))
        assert value_of(other.get("m")) == f"{number:04}"


# -- Secrets


SECRETS = [
    "sk-proj-Zq81kPjV3mXw7TbN2cYe",
    "sk-ant-api03-AAAAbbbbCCCC1111dddd",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "hf_" + "abcdefghij" * 4,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "gsk_1234567890abcdefghijABCDEFGHIJ",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_reaches_the_file_wherever_it_stands(path: Path, secret: str) -> None:
    cache = LLMCache(backend=f"jsonl:///{path}")
    messages = [{"role": "user", "content": f"My key is {secret}, keep it."}]
    params = {
        "model": "m",
        "extra_headers": {"X-Whatever": secret},
        "base_url": f"https://x.test/v1?key={secret}",
        "tools": [{"d": [secret]}],
    }
    cache.put(
        messages,
        {"content": f"I keep {secret}.", "raw": secret.encode(), "pair": (secret,)},
        **params,
    )
    assert secret.encode() not in path.read_bytes()
    assert cache.get(messages, **params)["content"] == "I keep [redacted]."


def test_secret_fields_do_not_reach_the_file(path: Path) -> None:
    cache = LLMCache(
        backend=f"jsonl:///{path}", redact=["User", "deep-id", re.compile(r"\bcase-\d+")], ignore=()
    )
    names = [
        "api_key",
        "X-API-Key",
        "Authorization",
        "cookie",
        "password",
        "client_secret",
        "aws_session_token",
        "azure_ad_token",
        "token",
    ]
    params: dict[str, Any] = {name: f"CANARY {name}" for name in names}
    params |= {
        "extra_headers": {name: f"CANARY {name}" for name in names},
        "credentials": {"a": ["CANARY"]},
    }
    params |= {"user": "CANARY", "metadata": [{"deep_id": {"x": "CANARY"}}], "max_tokens": 7}
    cache.put(
        [{"role": "user", "content": "about case-4711"}], "case-4711 is closed", model="m", **params
    )
    text = path.read_text()
    assert "CANARY" not in text
    assert "4711" not in text
    assert lines_of(path)[0]["request"]["max_tokens"] == 7


def test_words_are_no_secrets() -> None:
    innocent = [
        "sk-learn and sk-learn-pipelines-for-everybody",
        "the bearer of this letter",
        "see https://example.test/a?key=short and https://user@example.test/",
        "tokens: 5, a token of love, eyJust kidding",
        "task-oriented-dialogue-2024-systems",
        "risk-adjusted-return-on-capital-2020",
    ]
    redaction = Redaction()
    assert [redaction.text(text) for text in innocent] == innocent
    schema = {"tools": [{"max_tokens": 1, "logprobs": [{"tokens": "Paris"}]}]}
    assert redaction.request(schema) == schema
    answer = {"logprobs": [{"token": " Paris", "logprob": -0.1}]}
    assert redaction.answer(answer) == answer


@pytest.mark.parametrize("rules", ["user", [""], [5], [re.compile(b"x")]])
def test_a_rule_that_is_none_is_refused(rules: Any) -> None:
    with pytest.raises(TypeError, match="redact"):
        Redaction(rules)


def test_redacting_takes_time_in_proportion(path: Path) -> None:
    hostile = [
        "sk-" + "a-" * 200_000,
        "eyJ" + "a" * 300_000,
        "-----BEGIN PRIVATE KEY-----" * 10_000,
        "a://" * 100_000,
        "Bearer " * 60_000,
    ]
    redaction = Redaction()
    for text in hostile:
        redaction.text(text)  # pytest's timeout is the test


# -- As the store of a cache


def test_recordings_never_expire_and_are_never_pruned(path: Path, clock: Any) -> None:
    url = f"jsonl:///{path}"
    LLMCache(backend=url, ttl_seconds=10, clock=clock).put("question", "answer", model="m")
    clock.advance(10_000_000)
    assert (
        LLMCache(backend=url, ttl_seconds=10, mode="replay", clock=clock).get("question", model="m")
        == "answer"
    )
    before = path.read_bytes()
    assert LLMCache(backend=url, ttl_seconds=10, clock=clock).get("question", model="m") is None
    assert path.read_bytes() == before


@pytest.mark.parametrize("url", ["jsonl://{0}", "jsonl://./{0}", "jsonl:///{0}", "{0}", "./{0}"])
def test_urls_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fixtures").mkdir()
    LLMCache(backend=url.format("fixtures/llm.jsonl")).put("q", "a")
    assert (tmp_path / "fixtures" / "llm.jsonl").is_file()


def test_a_url_of_an_absolute_path_and_a_path_object(path: Path) -> None:
    LLMCache(backend=f"jsonl:///{path}").put("q", "a")
    assert LLMCache(backend=path).get("q") == "a"


@pytest.mark.parametrize("url", ["jsonl://", "jsonl:///", "jsonl://x.jsonl?a=b"])
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="jsonl://"):
        LLMCache(backend=url)


def test_a_store_handed_in_redacts_by_itself(path: Path) -> None:
    with pytest.raises(ValueError, match="redacts by itself"):
        LLMCache(backend=JsonlStore(path), redact=["user"])
    cache = LLMCache(backend=JsonlStore(path, redact=["user"]))
    cache.put("q", "a", user="CANARY")
    assert "CANARY" not in path.read_text()


def test_10_000_recordings_are_opened_and_read_quickly(fast_folder: Path) -> None:
    path = fast_folder / "many.jsonl"
    request = '{"messages": [{"role": "user", "content": "%s"}]}'
    write(
        path,
        *(
            line(
                f"1::value:{number:064}",
                {"content": "x" * 500},
                request=json.loads(request % number),
            )
            for number in range(10_000)
        ),
    )
    store = JsonlStore(path)
    assert store.size() == 10_000
    assert value_of(store.get(f"1::value:{77:064}")) == {"content": "x" * 500}
    store.put("new", entry_of(1))
    assert len(path.read_bytes().splitlines()) == 10_001


def test_reading_an_unencrypted_file_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crypto = pytest.importorskip("llm_cache_mem.values.encryption")
    key = crypto.new_key()
    with pytest.raises(ValueError, match="not encrypted"):
        LLMCache(backend=path, encryption_key=key)
    monkeypatch.setenv("LLM_CACHE_MEM_KEY", key)
    with pytest.raises(ValueError, match="encryption_key='plain'"):
        LLMCache(backend=path)
    LLMCache(backend=path, encryption_key="plain").put("q", "a")
    assert path.exists()


def test_many_are_read_written_and_removed_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[object] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *args: (writes.append(args), replace(*args)))
    store = JsonlStore(path)
    store.put_many({f"k{number}": entry_of(number) for number in range(20)})
    assert {
        key: value_of(entry) for key, entry in store.get_many(["k3", "absent", "k7"]).items()
    } == {"k3": 3, "k7": 7}
    assert store.delete_many({"k3", "absent", "k7"}) == 2
    assert (store.size(), len(writes)) == (18, 2)
    assert store.delete_many({"absent"}) == 0
    assert len(writes) == 2
