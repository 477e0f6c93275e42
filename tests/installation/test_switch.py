"""``install``, ``uninstall`` and ``installed``: what is on, what is put back, and what is refused."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from http_server import Provider
from installation.answers import BODY, CHAT, answer

from llm_cache_mem import LLMCache, install, installed, options, uninstall
from llm_cache_mem.installation import under_httpx
from llm_cache_mem.installation.active import active
from llm_cache_mem.installation.patching import Method, Patch
from llm_cache_mem.installation.switch import put, take_off

METHODS = [(httpx, method) for method in under_httpx._methods("httpx")]
METHODS += [(httpx2, method) for method in under_httpx._methods("httpx2")]


def attributes() -> list[Any]:
    """The patched attributes as they are now."""
    return [getattr(module, method.cls).__dict__[method.name] for module, method in METHODS]


def ask(server: Provider, **changes: Any) -> str:
    with httpx.Client(base_url=server.url) as client:
        response = client.post(CHAT, json={**BODY, **changes})
        return str(response.headers.get("x-llm-cache-mem"))


def test_uninstall_leaves_every_attribute_as_it_was() -> None:
    before, finders = attributes(), list(sys.meta_path)
    install(LLMCache())
    assert all(now is not old for now, old in zip(attributes(), before, strict=True))
    uninstall()
    assert all(now is old for now, old in zip(attributes(), before, strict=True))
    assert sys.meta_path == finders


def test_uninstall_without_install_does_nothing() -> None:
    before = attributes()
    uninstall()
    assert attributes() == before


def test_existing_clients_are_covered_and_restored(server: Provider) -> None:
    server.gives(answer())
    with httpx.Client(base_url=server.url) as client:
        cache = install(LLMCache())
        marks = [client.post(CHAT, json=BODY).headers["x-llm-cache-mem"] for _ in range(3)]
        uninstall()
        assert "x-llm-cache-mem" not in client.post(CHAT, json=BODY).headers
    assert marks == ["miss", "hit", "hit"]
    assert server.calls == 2
    assert (cache.stats().hits, cache.stats().misses) == (2, 1)


def test_the_same_cache_again_does_nothing() -> None:
    cache = LLMCache()
    assert install(cache) is install(cache) is install()
    uninstall()
    assert active() is None


def test_another_cache_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    first = install(tmp_path / "first.db")
    with pytest.raises(RuntimeError, match=r"first\.db.*uninstall\(\)"):
        install(LLMCache())
    assert active() is not None
    assert active().cache is first  # type: ignore[union-attr]  # as asserted


def test_the_same_url_again_does_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/c.db"
    assert install(url) is install(url)


def test_a_cell_that_runs_again_makes_its_cache_again(tmp_path: Path) -> None:
    caches = [LLMCache(backend=tmp_path / "c.db", ttl_seconds=60) for _ in range(2)]
    assert install(caches[0]) is install(caches[1]) is caches[0]
    for cache in caches:
        cache.close()


def test_install_opens_the_cache_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_CACHE_MEM_URL", str(tmp_path / "named.db"))
    assert "named.db" in repr(install())
    assert install() is install()
    uninstall()
    monkeypatch.delenv("LLM_CACHE_MEM_URL")
    assert "'memory'" in repr(install())


def test_a_cache_that_install_opened_is_closed_by_uninstall(tmp_path: Path) -> None:
    cache = install(tmp_path / "c.db")
    uninstall()
    assert cache.engine.closed
    mine = LLMCache(backend=tmp_path / "mine.db")
    with installed(mine):
        pass
    assert not mine.engine.closed
    mine.close()


@pytest.mark.parametrize("what", [3, object(), LLMCache, ["memory"]])
def test_a_non_cache_is_rejected(what: Any) -> None:
    with pytest.raises(TypeError, match="install takes an LLMCache, a URL or a path, not"):
        install(what)


def test_a_closed_cache_is_refused(tmp_path: Path) -> None:
    cache = LLMCache(backend=tmp_path / "c.db")
    cache.close()
    with pytest.raises(ValueError, match="is closed"):
        install(cache)


@pytest.mark.parametrize("hosts", [[3], ["a b"], "", ["*"]])
def test_hosts_that_name_no_server_are_refused(hosts: Any) -> None:
    if hosts == "":
        hosts = [""]
    with pytest.raises((TypeError, ValueError), match="hosts takes names"):
        install(LLMCache(), hosts=hosts)


def test_nested_blocks_end_in_order(server: Provider) -> None:
    server.gives(answer())
    outer, inner = LLMCache(), LLMCache()
    with installed(outer):
        ask(server)
        with installed(inner):
            ask(server)
            with installed(outer):
                assert ask(server) == "hit"
            assert ask(server) == "hit"
        assert ask(server) == "hit"
    assert (outer.stats().hits, inner.stats().hits, server.calls) == (2, 1, 2)


def test_a_block_ends_for_an_exception() -> None:
    with pytest.raises(KeyError), installed(LLMCache()):
        raise KeyError
    assert active() is None


def test_a_program_under_run_may_install_its_own(caplog: pytest.LogCaptureFixture) -> None:
    base = put("run", LLMCache())
    try:
        assert install(base.cache) is base.cache
        with caplog.at_level(logging.WARNING):
            own = install(LLMCache())
        assert "over the cache of llm-cache-mem run" in caplog.text
        assert active().cache is own  # type: ignore[union-attr]
        uninstall()
        assert active() is base
    finally:
        take_off(base)


def test_a_program_in_a_test_keeps_to_the_recordings() -> None:
    recordings = put("test", LLMCache())
    try:
        assert install(LLMCache()) is recordings.cache
    finally:
        take_off(recordings)


def test_a_library_without_the_method_is_named_and_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    patch = Patch(Method("httpx", "NoTransport", "handle_request", lambda original: original))
    patch.apply(httpx)
    patch.restore()
    assert f"httpx {httpx.__version__} has no NoTransport.handle_request" in caplog.text


def test_a_wrapper_put_over_the_patch_stays_and_works(server: Provider) -> None:
    """As an instrumentor does that is turned on after ``install`` and off later than it."""
    server.gives(answer())
    seen = []
    original = httpx.HTTPTransport.handle_request
    install(LLMCache())
    patched = httpx.HTTPTransport.handle_request

    def watching(self: Any, request: Any) -> Any:
        seen.append(request.url.path)
        return patched(self, request)

    try:
        httpx.HTTPTransport.handle_request = watching  # type: ignore[method-assign]
        assert [ask(server), ask(server)] == ["miss", "hit"]
        uninstall()
        assert ask(server) == "None"
        install(LLMCache())
        assert [ask(server), ask(server)] == ["miss", "hit"]
        assert len(seen) == 5
    finally:
        httpx.HTTPTransport.handle_request = patched  # type: ignore[method-assign]
    uninstall()
    assert httpx.HTTPTransport.handle_request is original


def test_libraries_imported_later_are_covered(tmp_path: Path) -> None:
    code = (
        "import sys, llm_cache_mem\n"
        "llm_cache_mem.install()\n"
        "assert 'httpx' not in sys.modules and 'httpx2' not in sys.modules\n"
        "import httpx, httpx2, importlib.resources\n"
        "methods = [library.HTTPTransport.handle_request for library in (httpx, httpx2)]\n"
        "assert all(m.__module__.startswith('httpx') and m.__wrapped__ for m in methods)\n"
        "assert httpx.__spec__.loader.get_source('httpx')\n"
        "llm_cache_mem.uninstall()\n"
        "assert [l.HTTPTransport.handle_request for l in (httpx, httpx2)] == "
        "[m.__wrapped__ for m in methods]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_spawned_and_forked_workers_stay_installed(tmp_path: Path, server: Provider) -> None:
    server.gives(answer())
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, sys, httpx, llm_cache_mem\n"
        "llm_cache_mem.install()\n"
        "def ask(number):\n"
        f"    return httpx.post({server.url + CHAT!r}, json={BODY!r}).headers['x-llm-cache-mem']\n"
        "if __name__ == '__main__':\n"
        "    marks = [ask(0)]\n"
        "    for kind in ('spawn', 'fork'):\n"
        "        with multiprocessing.get_context(kind).Pool(2) as pool:\n"
        "            marks += pool.map(ask, range(2))\n"
        "    print(*marks)\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "LLM_CACHE_MEM_URL": str(tmp_path / "c.db")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["miss", "hit", "hit", "hit", "hit"]
    assert server.calls == 1


def test_options_count_as_in_every_layer(server: Provider) -> None:
    server.gives(answer())
    install(LLMCache())
    with options(sample=1):
        assert ask(server) == "miss"
    assert ask(server) == "miss"
    with options(mode="off"):
        assert ask(server) == "None"
    with options(mode="refresh"):
        assert ask(server) == "miss"


@pytest.mark.parametrize(
    "rounds", [300, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_toggling_under_calling_threads_breaks_no_call(rounds: int) -> None:
    """Threads that call while others turn the cache on and off see answers only."""

    def handler(request: Any) -> Any:
        return httpx.Response(200, json={"text": "ok"})

    before, cache, stop = attributes(), LLMCache(prices={}), threading.Event()
    wrong: list[BaseException] = []
    calls = [0] * 4

    def call(number: int) -> None:
        try:
            with httpx.Client(transport=httpx.MockTransport(handler)) as client:
                while not stop.is_set():
                    body = {**BODY, "seed": calls[number] % 7}
                    assert client.post(f"http://localhost{CHAT}", json=body).json() == {
                        "text": "ok"
                    }
                    calls[number] += 1
        except BaseException as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(rounds):
        with installed(cache, mocks=True):
            pass
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(now is old for now, old in zip(attributes(), before, strict=True))
    print("calls:", sum(calls))
