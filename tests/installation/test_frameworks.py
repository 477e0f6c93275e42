"""Programs of other kinds under ``run``, and frameworks with clients of their own under
``install``: a second run makes no call."""

import os
import re
import socket
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from http_server import Provider
from installation.answers import BODY, answer

RUN = [sys.executable, "-m", "llm_cache_mem", "run", "--backend", "./c.db", "--"]


@pytest.fixture(autouse=True)
def answers(server: Provider) -> None:
    server.gives(answer())


def asking(server: Provider) -> str:
    return (
        "import openai\n"
        f"with openai.OpenAI(api_key='k', base_url='{server.url}/v1') as client:\n"
        f"    found = client.chat.completions.create(**{BODY!r})\n"
        "    text = found.choices[0].message.content\n"
    )


def test_a_jupyter_kernel_runs_under_it(server: Provider, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import nbformat\n"
        "from nbclient import NotebookClient\n"
        f"cell = nbformat.v4.new_code_cell({asking(server) + 'text'!r})\n"
        "notebook = nbformat.v4.new_notebook(cells=[cell])\n"
        "NotebookClient(notebook, timeout=60).execute()\n"
        "print(notebook.cells[0].outputs[0]['data']['text/plain'])\n"
    )
    for _ in range(2):
        done = subprocess.run(
            [*RUN, sys.executable, "program.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        assert done.stdout == "'Paris.'\n", done.stderr
    assert server.calls == 1
    assert "1 of 1 calls answered" in done.stderr


def test_uvicorn_with_two_workers_runs_under_it(server: Provider, tmp_path: Path) -> None:
    body = asking(server).replace("\n", "\n    ")
    (tmp_path / "app.py").write_text(
        "import os\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http':\n"
        "        return\n"
        f"    {body}\n"
        "    head = {'type': 'http.response.start', 'status': 200, 'headers': []}\n"
        "    await send(head)\n"
        "    await send({'type': 'http.response.body', 'body': text.encode()})\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [*RUN, sys.executable, "-m", "uvicorn", "app:app", "--workers", "2", "--port", port]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        while said.count("Application startup complete") < 2:
            line = process.stderr.readline()
            assert line, said
            said += line
        for _ in range(6):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as response:
                assert response.read() == b"Paris."
        process.terminate()
        said += process.stderr.read()
        assert process.wait(60) in (0, 143)
    finally:
        process.kill()
        process.wait(60)
        process.stderr.close()
    assert server.calls <= 2, "both workers may ask at once"
    assert re.search(r"of 6 calls answered from", said), said


FRAMEWORKS = {
    "pydantic-ai": """
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
provider = OpenAIProvider(base_url="{url}/v1", api_key="k")
print(Agent(OpenAIChatModel("m", provider=provider)).run_sync("hi").output)
""",
    "huggingface_hub": """
from huggingface_hub import InferenceClient
client = InferenceClient(base_url="{url}/v1", api_key="k")
found = client.chat_completion(messages=[{{"role": "user", "content": "hi"}}], model="m")
print(found.choices[0].message.content)
""",
    "agents": """
from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI
set_tracing_disabled(True)
client = AsyncOpenAI(base_url="{url}/v1", api_key="k")
agent = Agent(name="a", model=OpenAIChatCompletionsModel(model="m", openai_client=client))
print(Runner.run_sync(agent, "hi").final_output)
""",
    "instructor": """
import instructor
import openai
client = instructor.from_openai(openai.OpenAI(base_url="{url}/v1", api_key="k"))
said = [{{"role": "user", "content": "hi"}}]
print(client.chat.completions.create(model="m", response_model=None, messages=said)
    .choices[0].message.content)
""",
    "dspy": """
import dspy
lm = dspy.LM("openai/m", api_base="{url}/v1", api_key="k", cache=False)
print(lm("hi")[0])
""",
    "litellm": """
import litellm
found = litellm.completion(
    model="openai/m", api_base="{url}/v1", api_key="k", messages=[{{"role": "user", "content": "hi"}}]
)
print(found.choices[0].message.content)
""",
    "langchain": """
from langchain_openai import ChatOpenAI
print(ChatOpenAI(model="m", api_key="k", base_url="{url}/v1").invoke("hi").content)
""",
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_with_its_own_client_makes_no_second_call(
    name: str, server: Provider, tmp_path: Path
) -> None:
    if find_spec(name.replace("-", "_")) is None:
        pytest.skip(f"{name} is not here")
    (tmp_path / "program.py").write_text(FRAMEWORKS[name].format(url=server.url))
    for _ in range(2):
        done = subprocess.run(
            [*RUN, sys.executable, "program.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout == "Paris.\n", done.stderr
    assert server.calls == 1
    assert "1 of 1 calls answered" in done.stderr
