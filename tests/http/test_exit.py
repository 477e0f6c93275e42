"""A stream that is left open when its program ends leaves no message behind."""

import subprocess
import sys

import pytest

pytest.importorskip("huggingface_hub")

PROGRAM = """
import sys
import httpx
from huggingface_hub import InferenceClient, set_client_factory
from llm_cache_mem import LLMCache
from llm_cache_mem.http import CacheTransport

CHUNK = (
    b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices":'
    b' [{"index": 0, "delta": {"content": "a"}, "finish_reason": %s}]}\\n\\n'
)


class Stream(httpx.SyncByteStream):
    def __iter__(self):
        yield CHUNK % b"null"
        yield CHUNK % b'"stop"' + b"data: [DONE]\\n\\n"
        yield b": the end of the body is still to come\\n\\n"


def answer(request):
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Stream())


transport = CacheTransport(LLMCache(), httpx.MockTransport(answer))
set_client_factory(lambda: httpx.Client(transport=transport))
client = InferenceClient(base_url="http://test/v1", api_key="k")
chunks = iter(client.chat_completion(messages=[{"role": "user", "content": "hi"}], stream=True))
for _ in range(int(sys.argv[1])):
    print(next(chunks).choices[0].delta.content)
"""


@pytest.mark.parametrize("pieces", [1, 2], ids=["begun", "whole"])
def test_a_stream_left_open_at_exit_is_quiet(pieces: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(pieces)], capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "a\n" * pieces, "")
