"""``doctor``: a fit store passes, and what is wrong with one is named with what to do about it."""

import os
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import entry, fill, process, run, stored_key
from stores.servers import Server, program, running_memcached, running_redis, running_tls_redis
from threads import until

from llm_cache_mem import LLMCache
from llm_cache_mem.cli.doctor import memcached as doctor_memcached
from llm_cache_mem.cli.doctor.finding import size_of
from llm_cache_mem.stores.jsonl import JsonlStore
from llm_cache_mem.stores.redis import RedisStore
from llm_cache_mem.stores.sqlite import SQLiteStore


def examined(url: str, status: int) -> dict[str, dict[str, Any]]:
    """The findings by topic."""
    import json

    result = run_any("doctor", url, "--rounds", "5", "--json")
    assert result.exit_code == status, result.stdout
    found = json.loads(result.stdout)
    assert found["verdict"] == ("ok", "warn", "fail")[status]
    return {finding["topic"]: finding for finding in found["findings"]}


def run_any(*arguments: str) -> Any:
    from cli_helpers import runner

    from llm_cache_mem.cli.app import app

    result = runner.invoke(app, list(arguments))
    assert "Traceback" not in result.output
    return result


def advised(findings: dict[str, dict[str, Any]]) -> set[str]:
    return {topic for topic, finding in findings.items() if finding["level"] != "ok"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    name = str(tmp_path / "cache.db")
    fill(
        name,
        {
            stored_key("a"): entry("x", stored_at=time.time()),
            stored_key("b"): entry("y", expires_at=1001.0),
        },
    )
    return name


# -- SQLite


def test_a_good_file_passes_and_is_left_as_it_was(path: str) -> None:
    findings = examined(path, 0)
    assert {
        "store",
        "writers",
        "mode",
        "sqlite",
        "journal",
        "disk",
        "integrity",
        "rights",
        "put",
        "get",
        "delete",
        "leases",
        "entries",
    } == set(findings)
    assert findings["entries"]["text"] == "2, 1 of them expired"
    store = SQLiteStore(path)
    assert sorted(key for key, _ in store.entries()) == sorted([stored_key("a"), stored_key("b")])
    store.close()


def test_output_and_exit_status_agree(path: str) -> None:
    result = run("doctor", path)
    assert "OK    rights" in result.stdout
    os.chmod(path, 0o644)
    result = run_any("doctor", path)
    assert result.exit_code == 1
    assert "-> chmod 600" in result.stdout


def test_it_runs_as_a_command(path: str) -> None:
    assert process("doctor", path, "--rounds", "3").returncode == 0


def test_a_file_that_others_may_read(path: str) -> None:
    os.chmod(path, 0o640)
    findings = examined(path, 1)
    assert advised(findings) == {"mode"}
    assert path in findings["mode"]["text"]


@pytest.mark.parametrize("suffix", [".db", ".jsonl"])
def test_who_else_may_write_is_told(suffix: str, tmp_path: Path) -> None:
    path = str(tmp_path / f"cache{suffix}")
    with LLMCache(backend=path if suffix == ".db" else f"jsonl:///{path}") as cache:
        cache.put("q", "a", model="m")
    assert examined(path, 0)["writers"]["text"] == "only this user can change it"
    tmp_path.chmod(0o777)
    findings = examined(path, 1)
    assert advised(findings) == {"writers"}
    assert f"everyone may write to the folder {tmp_path}" in findings["writers"]["text"]


def test_a_missing_file_cannot_be_used_and_is_not_made(tmp_path: Path) -> None:
    findings = examined(str(tmp_path / "none.db"), 2)
    assert "no such database" in findings["use"]["text"]
    assert not list(tmp_path.iterdir())


def test_a_file_of_a_newer_version_cannot_be_used(path: str) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert "newer version" in examined(path, 2)["use"]["text"]


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    path = str(tmp_path / "c.db")
    fill(path, {stored_key(f"k{number}"): entry("x" * 5000) for number in range(100)})
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2 // 4096 * 4096)
        file.write(b"\xff" * 200)
    result = run_any("doctor", path, "--rounds", "1")
    assert result.exit_code in (1, 2)
    assert "damage" in result.stdout


def test_reports_clock_jumps_and_unreadable_entries(path: str) -> None:
    store = SQLiteStore(path)
    store.put(stored_key("future"), entry("x", stored_at=time.time() + 86_400))
    store.put(stored_key("broken"), entry("x"))
    store._access.write(
        lambda db: db.execute(
            "UPDATE entries SET data = x'00' WHERE key = ?", (stored_key("broken"),)
        )
    )
    store.close()
    assert advised(examined(path, 1)) == {"times", "unreadable"}


def test_a_full_disk_is_told_before_it_is_full(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from shutil import _ntuple_diskusage

    monkeypatch.setattr(
        "shutil.disk_usage", lambda folder: _ntuple_diskusage(10**9, 10**9 - 10**6, 10**6)
    )
    findings = examined(path, 1)
    assert advised(findings) == {"disk"}
    assert "976.6 KiB free" in findings["disk"]["text"]


def test_memory_in_front_is_not_looked_at(path: str) -> None:
    assert "integrity" in examined(f"tiered:memory,sqlite:///{path}", 0)


# -- Recordings


def test_a_recording_passes(tmp_path: Path) -> None:
    store = JsonlStore(tmp_path / "llm.jsonl")
    store.put(stored_key("a"), entry("x"))
    store.close()
    before = (tmp_path / "llm.jsonl").stat()
    findings = examined(f"jsonl:///{tmp_path}/llm.jsonl", 0)
    assert "none" in findings["leases"]["text"]
    assert "get" in findings
    after = (tmp_path / "llm.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


# -- Redis


@pytest.fixture
def redis() -> Iterator[Server]:
    with running_redis("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as server:
        yield server


def test_a_redis_that_is_set_up_as_a_cache_passes(redis: Server) -> None:
    store = RedisStore(redis.url)
    store.put(stored_key("a"), entry("x", stored_at=time.time()))
    findings = examined(redis.url, 0)
    assert {"server", "memory", "policy", "persistence", "clock", "leases", "entries"} <= set(
        findings
    )
    assert findings["memory"]["text"].endswith(
        "of 50.0 MiB used, 0 keys evicted since it was started"
    )
    assert store.size() == 1
    store.close()
    assert redis.ask("DBSIZE") == ":1"


def test_a_redis_as_it_comes_has_no_bound_and_no_eviction(redis_url: str) -> None:
    findings = examined(redis_url, 1)
    assert advised(findings) == {"memory", "policy"}
    assert "maxmemory-policy allkeys-lru" in findings["policy"]["advice"]


def test_a_redis_that_is_full_cannot_be_written(redis: Server) -> None:
    redis.ask("CONFIG SET maxmemory-policy noeviction")
    redis.ask("CONFIG SET maxmemory 1")
    findings = examined(redis.url, 2)
    assert "OOM" in findings["writing"]["text"]


def test_a_redis_that_is_away_or_wants_a_password(redis: Server) -> None:
    redis.ask("CONFIG SET requirepass secret-word")
    refused = examined(redis.url, 2)
    assert "NOAUTH" in refused["reach"]["text"]
    assert "rejects the user or password" in refused["reach"]["advice"]
    url = redis.url.replace("://", "://:secret-word@")
    result = run_any("doctor", url, "--rounds", "2")
    assert result.exit_code == 0
    assert "secret-word" not in result.output
    redis.kill()
    result = run_any("doctor", url)
    assert result.exit_code == 2
    assert "refused" in result.output
    assert "secret-word" not in result.output


def test_an_untrusted_tls_certificate_names_the_option() -> None:
    with running_tls_redis() as (server, _):
        findings = examined(f"rediss://localhost:{server.tls_port}/0", 2)
    assert "self-signed certificate" in findings["reach"]["text"]
    assert "ssl_ca_certs=" in findings["reach"]["text"]


def test_a_replica_is_named_as_one(redis: Server) -> None:
    with running_redis() as other:
        redis.ask(f"REPLICAOF 127.0.0.1 {other.port}")
        findings = examined(redis.url, 2)
    assert "READONLY" in findings["writing"]["text"]


def test_a_user_without_info_permission_sees_the_rest(redis: Server) -> None:
    redis.ask("ACL SETUSER cache on >word ~* +get +set +del +unlink +eval +scan +mget +time")
    findings = examined(redis.url.replace("://", "://cache:word@"), 0)
    assert "NOPERM" in findings["server"]["text"]
    assert "clock" in findings


# -- Memcached


def test_a_memcached_passes_as_a_whole(memcached_url: str) -> None:
    findings = examined(memcached_url, 0)
    assert {"rights", "leases", "entries"} <= set(findings)
    assert any(topic.endswith(" clock") for topic in findings)


def test_memcached_figures() -> None:
    with running_memcached("-m", "16", "-I", "512k", "-M") as server:
        found = {
            finding.topic: finding
            for finding in doctor_memcached.findings(f"memcached://127.0.0.1:{server.port}")
        }
    name = f"127.0.0.1:{server.port}"
    assert {topic for topic, finding in found.items() if finding.level == "warn"} == {
        f"{name} values",
        f"{name} policy",
    }
    assert "of 16.0 MiB used" in found[f"{name} memory"].text
    assert "behind" in found[f"{name} clock"].text or "ahead" in found[f"{name} clock"].text


def test_a_memcached_behind_the_path_of_a_socket_is_asked_there(tmp_path: Path) -> None:
    path = tmp_path / "memcached.sock"
    user = ("-u", "root") if os.getuid() == 0 else ()

    def listens() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0

    with subprocess.Popen([program("memcached"), "-s", str(path), *user]) as server:
        try:
            until(listens)
            found = {
                finding.topic: finding.level
                for finding in doctor_memcached.findings(f"memcached://{path}")
            }
        finally:
            server.kill()
    assert found[str(path)] == found[f"{path} clock"] == "ok"


def test_a_memcached_that_is_away_is_named() -> None:
    with running_memcached() as server:
        url = f"memcached://127.0.0.1:{server.port},127.0.0.1:1"
        found = {finding.topic: finding for finding in doctor_memcached.findings(url)}
    assert found["127.0.0.1:1"].level == "warn"
    assert found[f"127.0.0.1:{server.port}"].level == "ok"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 50, "3072.0 TiB"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert size_of(count) == text


def test_secrets_beside_answers_are_found(tmp_path: Path) -> None:
    file = tmp_path / "cache.db"
    with LLMCache(backend=file, keep_requests=True) as cache:
        cache.put("hello", "fine", model="m")
    assert "secrets" not in examined(str(file), 0)
    kept = entry({"password": "hunter2"}, stored_at=time.time(), request=b'{"messages":"hello"}')
    fill(str(file), {stored_key("made before that was redacted"): kept})
    found = examined(str(file), 1)
    assert advised(found) == {"secrets"}
    assert found["secrets"]["text"].startswith("1 entries")
    assert "hunter2" not in str(found)
