"""What a forked child finds: imports that its parent's threads had begun are finished."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llm_cache_mem._util import fork

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

PROGRAM = """
import os, sys, threading
from llm_cache_mem import LLMCache

begun, go_on = threading.Event(), threading.Event()

class Slow:
    '''Imports genai_prices slowly: one of its modules, the last, stays in the middle.'''
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            begun.set()
            go_on.wait(10)

sys.meta_path.insert(0, Slow())
cache = LLMCache()

def model(**request):
    return {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "model": "gpt-4o",
            "usage": {"prompt_tokens": 3, "completion_tokens": 4}}

threading.Thread(target=cache.get_or_call, args=("a", model), kwargs={"model": "gpt-4o"}).start()
assert begun.wait(10)
threading.Timer(0.05, go_on.set).start()
child = os.fork()
cache.get_or_call("b", model, model="gpt-4o")
assert cache.get_or_call("b", model, model="gpt-4o") and cache.stats().saved_usd > 0
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("module", ["genai_prices", "genai_prices.types", "genai_prices.data"])
def test_fork_while_a_thread_imports_the_prices_leaves_a_child_that_works(
    module: str, tmp_path: Path
) -> None:
    pytest.importorskip("genai_prices")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    subprocess.run([sys.executable, program, module], check=True, timeout=30)


def test_fork_that_has_waited_long_enough_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork, "_LONGEST_WAIT", 0.01)
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        with fork.finished_before_fork():
            begun.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    child = os.fork()
    if not child:
        with fork.finished_before_fork():  # of its own
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    end.set()
    thread.join()
    with fork.finished_before_fork():
        pass


def test_block_may_fork_itself() -> None:
    with fork.finished_before_fork():
        child = os.fork()
        if not child:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not fork._unfinished._is_owned()  # type: ignore[attr-defined]
