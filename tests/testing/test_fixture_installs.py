"""The fixture ``llm_cache`` is installed for its test: an application that makes its own clients is
recorded and replayed as it is."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Provider, provider
from installation.answers import answer

pytest_plugins = ["pytester"]

APP = """
import openai

def capital(question="What is the capital of France?"):
    client = openai.OpenAI(api_key="k", base_url="{url}/v1", max_retries=2)
    asked = [{{"role": "user", "content": question}}]
    return client.chat.completions.create(model="m", messages=asked).choices[0].message.content

async def acapital():
    async with openai.AsyncOpenAI(api_key="k", base_url="{url}/v1") as client:
        asked = [{{"role": "user", "content": "And of Italy?"}}]
        found = await client.chat.completions.create(model="m", messages=asked)
        return found.choices[0].message.content
"""

TESTS = """
import unittest
import anyio
import pytest
from app import acapital, capital

def test_sync(llm_cache):
    assert capital() == "Paris."

async def test_async(llm_cache):
    assert await acapital() == "Paris."

def test_anyio(llm_cache):
    assert anyio.run(acapital) == "Paris."

@pytest.mark.llm_cache
def test_marker_alone():
    assert capital("In a marked test?") == "Paris."

@pytest.mark.llm_cache
class TestInAClass(unittest.TestCase):
    def test_method(self):
        assert capital("In a class?") == "Paris."

def test_layer_above(llm_cache):
    from llm_cache_mem import install
    install()  # what an application does when it starts
    assert llm_cache.get_or_call("hi", lambda messages: capital("From above?")) == "Paris."
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\nasyncio_mode = auto\npythonpath = .\n")
    return pytester


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(suite: pytest.Pytester, *args: str) -> pytest.RunResult:
    plugins = ("llm_cache_mem.testing.pytest_plugin", "pytest_asyncio.plugin", "xdist.plugin")
    named = [part for plugin in plugins for part in ("-p", plugin)]
    return suite.runpytest_subprocess("-p", "no:cacheprovider", *named, *args)


@pytest.fixture
def server() -> Iterator[Provider]:
    with provider() as server:
        server.gives(answer())
        yield server


def test_an_application_is_recorded_and_replayed(suite: pytest.Pytester, server: Provider) -> None:
    suite.makepyfile(app=APP.format(url=server.url), test_app=TESTS)
    run(suite, "--llm-cache=on").assert_outcomes(passed=6)
    calls = server.calls
    assert calls == 5, "two tests ask for the same"
    for args in ((), ("-n", "2")):
        run(suite, "--llm-cache=replay", *args).assert_outcomes(passed=6)
    assert server.calls == calls
    recorded = suite.path / "llm_cache" / "test_app.jsonl"
    assert len(recorded.read_text().splitlines()) == calls


def test_a_miss_is_raised_at_the_users_own_line(suite: pytest.Pytester, server: Provider) -> None:
    suite.makepyfile(app=APP.format(url=server.url), test_app=TESTS)
    run(suite, "--llm-cache=on", "-k", "test_sync").assert_outcomes(passed=1)
    changed = TESTS.replace("assert capital() ==", 'assert capital("The capital of France?") ==')
    suite.makepyfile(test_app=changed)
    calls = server.calls
    done = run(suite, "--llm-cache=replay", "-k", "test_sync")
    done.assert_outcomes(failed=1)
    text = done.stdout.str()
    assert server.calls == calls
    assert "CacheMissError" in text
    assert "What is the capital" in text, "the nearest recording"
    assert "site-packages" not in text
    assert text.index("test_app.py") < text.index("app.py:")


def test_a_test_without_the_fixture_is_left_alone(suite: pytest.Pytester, server: Provider) -> None:
    suite.makepyfile(
        app=APP.format(url=server.url),
        test_app="from app import capital\ndef test_plain():\n    assert capital() == 'Paris.'\n",
    )
    run(suite, "--llm-cache=replay").assert_outcomes(passed=1)
    assert server.calls == 1
    assert not Path(suite.path / "llm_cache").exists()
    assert os.environ.get("LLM_CACHE_MEM_URL") is None
