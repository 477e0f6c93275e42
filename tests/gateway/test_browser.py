"""The live page in a real Chromium: it shows the calls as they are made, and hostile text as text."""

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_client import ANSWER, CHAT, post
from http_server import Asked, Reply
from playwright.sync_api import expect, sync_playwright

from llm_cache_mem import LLMCache
from llm_cache_mem.gateway.feed import Feed

HOSTILE = "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("LLM_CACHE_MEM_SERVERS") == "required":
            pytest.fail("Chromium is required: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def gateway(start: Any) -> Any:
    feed = Feed()
    running = start(LLMCache(prices={}, keep_requests=True, on_event=feed.event), feed=feed)

    def answer(asked: Asked) -> Reply:
        said = asked.body["messages"][0]["content"]
        choice = {"index": 0, "finish_reason": "stop"}
        message = {"role": "assistant", "content": f"{said} {HOSTILE}"}
        body = {**ANSWER, "model": asked.body["model"], "choices": [{**choice, "message": message}]}
        return Reply(json.dumps(body).encode())

    running.upstream.answer = answer
    return running


def ask(gateway: Any, text: str, model: str = "m") -> None:
    post(gateway.url + CHAT, {"model": model, "messages": [{"role": "user", "content": text}]})


@pytest.fixture
def page(browser: Any, gateway: Any) -> Iterator[Any]:
    """The page, just opened; at the end it must have logged no error and run nothing foreign."""
    context = browser.new_context(viewport={"width": 390, "height": 800})
    opened, errors = context.new_page(), []
    opened.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(f"{gateway.url}/_cache/")
    yield opened
    assert opened.evaluate("window.owned") is None
    assert errors == []
    context.close()


def test_calls_show_as_they_are_made(page: Any, gateway: Any) -> None:
    for model in ("one", HOSTILE):
        ask(gateway, "hello", model)
        ask(gateway, "hello", model)
    expect(page.locator("#feed tr")).to_have_count(4)
    expect(page.locator("#feed tr").first).to_contain_text("hit")
    expect(page.locator("#tiles")).to_contain_text("2 of 4 asked")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_entry_is_found_read_and_deleted(page: Any, gateway: Any) -> None:
    for text in ("apples", f"pears {HOSTILE}", "plums"):
        ask(gateway, text)
    page.get_by_role("tab", name="Entries").click()
    expect(page.locator("#rows tr")).to_have_count(3)
    page.get_by_label("Search").fill("pears")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.locator("#rows button").click()
    expect(page.locator("#details")).to_be_visible()
    assert HOSTILE in page.locator("#request").inner_text()
    assert "<img src=x" in page.locator("#answer").inner_text()
    page.get_by_role("button", name="Delete this entry…").click()
    page.get_by_role("button", name="Cancel").click()
    assert gateway.cache.engine.backend.size("") == 3
    page.get_by_role("button", name="Delete this entry…").click()
    page.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(page.locator("#rows tr")).to_have_count(0)
    assert gateway.cache.engine.backend.size("") == 2


def test_the_page_works_by_keyboard(page: Any, gateway: Any) -> None:
    ask(gateway, "apples")
    ask(gateway, "apples and pears")
    page.keyboard.press("/")
    page.keyboard.type("pears")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.locator("#rows button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#details")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Entries").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#explanations")).to_contain_text("apples")


def test_a_gateway_with_a_token_asks_for_it(browser: Any, start: Any) -> None:
    gateway = start(token="open sesame")
    page = browser.new_page()
    page.goto(f"{gateway.url}/_cache/")
    expect(page.locator("#login")).to_be_visible()
    page.get_by_label("The token of this gateway").fill("open sesame")
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("live")
    page.close()
