"""The servers that the tests of shared stores stand on: they start, stop, pause, and leave nothing
behind."""

import os
import socket

import pytest
from stores.servers import (
    Server,
    running_memcached,
    running_redis,
    running_sentinel,
    running_tls_redis,
    until,
)


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_private_redis_is_removed_with_its_folder() -> None:
    with running_redis("--maxmemory", "5mb") as server:
        assert server.ask("PING") == "+PONG"
        folder = server.folder
    assert refuses(server.port)
    assert not folder.exists()


def test_it_comes_back_on_the_same_port_and_empty() -> None:
    with running_redis() as server:
        server.ask("SET k v")
        server.kill()
        assert refuses(server.port)
        server.start()
        assert server.ask("GET k") == "$-1"


def test_a_paused_tracker_is_silent_until_resumed() -> None:
    with running_redis() as server:
        server.pause()
        with pytest.raises(TimeoutError):
            server.ask("PING", seconds=0.1)
        server.resume()
        assert server.ask("PING") == "+PONG"


def test_a_server_that_cannot_start_tells_why() -> None:
    with (
        pytest.raises(RuntimeError, match="no-such-option"),
        running_redis("--no-such-option", "1"),
    ):
        pass


def test_three_masters_share_the_slots(three_masters: list[Server]) -> None:
    assert len(three_masters) == 3
    assert all(
        "cluster_slots_assigned:16384" in server.ask("CLUSTER INFO") for server in three_masters
    )


def test_valkey_speaks_the_same_protocol(valkey_server: Server) -> None:
    assert valkey_server.ask("PING") == "+PONG"


def test_a_sentinel_knows_its_master(redis_server: Server) -> None:
    with running_sentinel(redis_server) as watcher:
        until(
            lambda: "name=mymaster,status=ok" in watcher.ask("INFO sentinel"), "the master is seen"
        )


def test_tls_is_spoken_at_a_port_of_its_own() -> None:
    with running_tls_redis() as (server, cert):
        assert not refuses(server.tls_port)
        assert cert.is_file()


def test_memcached_answers_and_is_emptied_for_each_test(
    memcached_server: Server, memcached_url: str
) -> None:
    assert memcached_url.endswith(str(memcached_server.port))
    assert memcached_server.ask("version").startswith("VERSION")
    with running_memcached("-m", "64") as server:
        server.kill()
        assert refuses(server.port)
        server.start()


def test_the_shared_redis_is_handed_out_empty(redis_server: Server, redis_url: str) -> None:
    assert redis_url == redis_server.url
    assert redis_server.ask("DBSIZE") == ":0"
    assert os.path.isdir(redis_server.folder)
