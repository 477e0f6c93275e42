"""Every way to name a backend, and what is said about a wrong one."""

import re
from pathlib import Path

import pytest

from llm_cache_mem import LLMCache
from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores import MemoryStore, StoreSettings, open_store
from llm_cache_mem.stores.urls import SCHEMES, locate


def opened(backend):
    found = open_store(backend, StoreSettings(max_size=5))
    found.store.close()
    return found


@pytest.mark.parametrize("backend", ["memory", "memory://", "sqlite://:memory:"])
def test_memory(backend):
    found = opened(backend)
    assert isinstance(found.store, MemoryStore)
    assert found.owned


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite://./cache.db", "cache.db"),
        ("sqlite://cache.db", "cache.db"),
        ("sqlite:///cache.db", "cache.db"),
        ("sqlite:///sub/cache.db", "sub/cache.db"),
        ("./cache.db", "cache.db"),
        ("cache.sqlite3", "cache.sqlite3"),
        ("sub/cache", "sub/cache"),
        (Path("cache"), "cache"),
    ],
)
def test_sqlite_relative_to_the_working_directory(url, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    found = opened(url)
    assert (tmp_path / file).is_file()
    assert found.owned


def test_sqlite_with_four_slashes_is_absolute(tmp_path):
    opened(f"sqlite:///{tmp_path}/cache.db")
    assert (tmp_path / "cache.db").is_file()


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    opened("sqlite://~/cache.db")
    assert (tmp_path / "cache.db").is_file()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://:hunter2@cache.example:6380/3", "redis://cache.example:6380/3"),
        (
            "rediss://user:hunter2@cache.example?db=2&ssl_cert_reqs=none",
            "rediss://cache.example:6379/2",
        ),
        ("unix:///run/redis.sock?db=1&password=hunter2", "unix:///run/redis.sock/1"),
        ("valkey://cache.example/1", "valkey://cache.example:6379/1"),
        ("valkeys://cache.example", "valkeys://cache.example:6379/0"),
    ],
)
def test_a_server_is_named_without_its_password_and_not_asked_yet(url, name):
    found = opened(url)
    assert found.name == name
    assert repr(found.store) == f"RedisStore({name!r})"
    assert found.owned
    assert not found.bounded


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:hunter2/0",
        "redis://:hunter2/3@localhost/0",
        "redis://localhost/hunter2",
        "redis://localhost/0/1",
        "redis://localhost/0?hunter2=1",
        "redis://localhost/0?protocol=x",
        "redis://localhost/?db=hunter2",
        "redis://localhost?socket_timeout=0",
        "redis://localhost?max_connections=-1",
        "rediss://localhost?ssl_cert_reqs=hunter2",
        "rediss://localhost?ssl_ca_certs=/no/such/file.pem",
        "redis://[::1",
        "unix://",
        "valkey://localhost:99999",
    ],
)
def test_an_impossible_url_is_rejected_without_its_password(url):
    with pytest.raises(ValueError, match=r"redis|unix|valkey") as caught:
        opened(url)
    assert "3@" not in str(caught.value)
    assert (
        "hunter2" not in str(caught.value) or "hunter2=1" in url
    )  # the name of an option is no secret


@pytest.mark.parametrize("bound", [{"max_size": 10}, {"max_bytes": 1000}])
def test_the_bounds_of_a_server_are_its_own(bound):
    with pytest.raises(ValueError, match="redis://localhost:6379/0 takes no max_size or max_bytes"):
        LLMCache(backend="redis://localhost:6379/0", **bound)
    for none in ({}, {"max_size": None}, {"max_bytes": None}):
        LLMCache(backend="redis://localhost:6379/0", **none).close()


@pytest.mark.parametrize("bound", ["max_size", "max_bytes"])
def test_recordings_have_no_bounds(bound, tmp_path):
    with pytest.raises(
        ValueError, match=r"jsonl:///.*takes no max_size or max_bytes.*recordings are only removed"
    ):
        LLMCache(backend=tmp_path / "llm.jsonl", **{bound: 5})


def test_a_store_object_is_used_directly():
    store = MemoryStore()
    found = open_store(store, StoreSettings(max_size=5))
    assert found.store is store
    assert not found.owned


@pytest.mark.parametrize("backend", ["mysql://host/db", "sqlte://x.db", "redis", "", "memory:"])
def test_an_unknown_backend_is_refused_with_the_known_ones(backend):
    with pytest.raises(ValueError, match=r"unknown backend .*known are:\n  memory\n  sqlite://"):
        opened(backend)


@pytest.mark.parametrize("backend", ["sqlite://", "sqlite:///", "sqlite:////"])
def test_a_sqlite_url_without_a_path_is_refused(backend):
    with pytest.raises(ValueError, match="needs a path"):
        opened(backend)


@pytest.mark.parametrize(
    "backend",
    ["redis:/localhost:6379/0", "sqlite:cache.db", "sqlite:/var/cache.db", "memcached:localhost/"],
)
def test_a_url_that_lacks_a_slash_makes_no_file_of_its_name(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in (opened, locate):
        with pytest.raises(ValueError, match=r"begins with [a-z]+://, not [a-z]+: alone"):
            read(backend)
    assert not list(tmp_path.iterdir())


def test_options_in_a_sqlite_url_are_refused_rather_than_ignored():
    with pytest.raises(ValueError, match=r"takes no \?options"):
        opened("sqlite:///x.db?mode=ro")


@pytest.mark.parametrize("scheme", ["sqlite", "jsonl"])
@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("{}://./a.x", "./a.x"),
        ("{}://a.x", "a.x"),
        ("{}:///a.x", "a.x"),
        ("{}:///sub/a.x", "sub/a.x"),
        ("{}:////var/a.x", "/var/a.x"),
        ("{}://~/a.x", "/home/me/a.x"),
        ("{}:///~/a.x", "/home/me/a.x"),
    ],
)
def test_slashes_mean_the_same_in_every_scheme_of_files(scheme, url, path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found, place = locate(url.format(scheme))
    assert (found.names, place) == ((scheme,), path)


@pytest.mark.parametrize(
    "backend", ["sqlite://./no/c.db", "jsonl:///no/c.jsonl", "no/c.db", Path("no") / "c.jsonl"]
)
def test_a_missing_folder_is_named_and_not_made(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=f"the folder {tmp_path}/no does not exist: create it"):
        opened(backend)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "meant"),
    [("sqlite:///no/c.db", "sqlite:////no/c.db"), ("jsonl:///no/c.jsonl", "jsonl:////no/c.jsonl")],
)
def test_three_slashes_are_told_from_four(url, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=f"relative path: did you mean {meant}\\?"):
        opened(url)
    with pytest.raises(StoreError) as caught:
        opened("no/c.db")
    assert "did you mean" not in str(caught.value)


def test_every_scheme_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "stores.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="unknown backend") as caught:
        opened("mysql://host")
    for scheme in SCHEMES:
        for example in scheme.examples.split(", "):
            assert example in str(caught.value)
        for name in scheme.names:
            assert f"`{name}" in page


@pytest.mark.parametrize("backend", [None, 7, object(), {}])
def test_a_wrong_backend_type_is_a_type_error(backend):
    with pytest.raises(
        TypeError, match=r"backend must be a URL, a path or a Store.*RedisStore\(client\)"
    ):
        opened(backend)


def test_a_password_in_a_wrong_url_is_not_repeated():
    with pytest.raises(ValueError, match="unknown backend") as caught:
        opened("mongodb://user:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "rediss//user:hunter2@host/0",
        "rediss//hunter2@host/0",
        "user:hunter2@host:6379/0",
        "user:hunter2@host",
        "tiered:memory,redis//:hunter2@host/0",
        "redis//:hunter2@host/0?next=http://host",
    ],
)
def test_a_password_in_a_url_without_its_colon_is_not_repeated(url):
    with pytest.raises(ValueError, match=r":// follows the scheme") as caught:
        opened(url)
    assert "hunter2" not in str(caught.value)
    assert ("did you mean redis" in str(caught.value)) == ("redis" in url)


def test_a_file_may_have_the_name_of_a_user_and_host():
    for path in ("./a:b@c.db", "cache/me@host/c.db"):
        assert locate(path)[1] == path


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("sqllite://./a.db", "sqlite://"),
        ("rediss2://h", "rediss://"),
        ("jsonlines://a", "jsonl://"),
        ("cache", "memcached:// or the file ./cache.db"),
        ("memry", "memory or the file ./memry.db"),
        ("redis", "redis:// or the file ./redis.db"),
    ],
)
def test_a_misspelt_scheme_is_answered_by_the_one_that_was_meant(url: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {re.escape(meant)}\\?"):
        open_store(url)
