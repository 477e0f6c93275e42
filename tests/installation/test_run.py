"""``llm-cache-mem run``: programs as they are, their children, signals and exit codes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from http_server import Provider
from installation.answers import BODY, answer

from llm_cache_mem import LLMCache
from llm_cache_mem.cli.run import _summary
from llm_cache_mem.installation.child import Savings, _Report, environment_for, savings_in

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, server: Provider) -> Run:
    """Runs a program, given as its text or as a command, under the cache."""
    server.gives(answer())

    def run(*command: str, options: tuple[str, ...] = (), text: str | None = None) -> object:
        if text is not None:
            (tmp_path / "program.py").write_text(text)
            command = (sys.executable, "program.py", *command)
        return subprocess.run(
            [*launcher(), "run", *options, "--", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run  # type: ignore[return-value]  # as it says


def launcher() -> list[str]:
    return [sys.executable, "-m", "llm_cache_mem"]


def asking(server: Provider) -> str:
    """A program that makes one call with a client of its own."""
    return (
        "import openai\n"
        f"client = openai.OpenAI(api_key='k', base_url='{server.url}/v1')\n"
        f"found = client.chat.completions.create(**{BODY!r})\n"
        "print(found.choices[0].message.content)\n"
    )


def test_a_second_run_makes_no_call(run: Run, server: Provider) -> None:
    first, second = run(text=asking(server)), run(text=asking(server))
    assert first.stdout == second.stdout == "Paris.\n"
    assert server.calls == 1
    assert "0 of 1 calls answered from" in first.stderr
    assert "1 of 1 calls answered from" in second.stderr
    assert "saved 9 tokens" in second.stderr


def test_quiet_prints_nothing(run: Run, server: Provider) -> None:
    assert run(text=asking(server), options=("--quiet",)).stderr == ""


def test_replay_makes_no_call(run: Run, server: Provider) -> None:
    done = run(text=asking(server), options=("--mode", "replay"))
    assert done.returncode == 1
    assert "CacheMissError" in done.stderr
    assert server.calls == 0


def test_refresh_and_ttl_are_passed_on(run: Run, server: Provider, tmp_path: Path) -> None:
    run(text=asking(server), options=("--backend", "./c.db"))
    run(text=asking(server), options=("--backend", "./c.db", "--mode", "refresh", "--ttl", "2h"))
    assert server.calls == 2
    with LLMCache(backend=tmp_path / "c.db") as cache:
        ((_, entry),) = cache.engine.entries()
    assert entry.expires_at is not None
    assert entry.expires_at - entry.stored_at == 7200


def test_the_exit_code_and_the_arguments_pass(run: Run) -> None:
    done = run("a b", "--quiet", text="import sys\nprint(sys.argv[1:])\nsys.exit(7)\n")
    assert done.returncode == 7
    assert done.stdout == "['a b', '--quiet']\n"


def test_children_are_included(run: Run, server: Provider) -> None:
    text = (
        "import multiprocessing, subprocess, sys\n"
        "def ask(number):\n"
        f"    exec({asking(server)!r}, {{}})\n"
        "if __name__ == '__main__':\n"
        "    for kind in ('spawn', 'fork'):\n"
        "        with multiprocessing.get_context(kind).Pool(1) as pool:\n"
        "            pool.map(ask, [0])\n"
        f"    subprocess.run([sys.executable, '-c', {asking(server)!r}], check=True)\n"
    )
    done = run(text=text)
    assert done.stdout == "Paris.\n" * 3, done.stderr
    assert server.calls == 1
    assert "2 of 3 calls answered" in done.stderr


def test_the_users_own_sitecustomize_runs_too(
    run: Run, server: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import builtins\nbuiltins.OWN = __file__\n")
    monkeypatch.setenv("PYTHONPATH", f"{own}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = run(text="import sitecustomize\nprint(OWN)\nprint(sitecustomize.__file__)\n")
    assert done.stdout.splitlines() == [str(own / "sitecustomize.py")] * 2


def test_a_program_that_installs_its_own_goes_on(run: Run, server: Provider) -> None:
    text = "import llm_cache_mem\nllm_cache_mem.install('own.db')\n" + asking(server)
    for _ in range(2):
        assert run(text=text).stdout == "Paris.\n"
    assert server.calls == 1


def test_a_non_python_program_is_pointed_to_serve(run: Run) -> None:
    done = run("sh", "-c", "exit 3")
    assert done.returncode == 3
    assert "llm-cache-mem run --gateway" in done.stderr


def test_replay_fails_where_the_cache_cannot_reach(run: Run) -> None:
    isolated = run(sys.executable, "-I", "-c", "", options=("--mode", "replay"))
    assert isolated.returncode == 1
    assert "-I" in isolated.stderr


def test_a_wrong_store_ends_it_before_the_program_starts(run: Run, server: Provider) -> None:
    for backend in ("sqllite://x", "/no/such/folder/x.db"):
        done = run(text=asking(server), options=("--backend", backend, "--mode", "replay"))
        assert done.returncode == 2
    assert server.calls == 0


def test_a_store_of_a_run_holds_more_than_256_entries(run: Run, server: Provider) -> None:
    first = asking(server)
    again = first.splitlines()[2].replace("'model': 'm'", "'model': model")
    text = f"{first}for model in map(str, range(299)):\n    {again}\n"
    run(text=text)
    assert "300 of 300 calls answered" in run(text=text).stderr


def test_a_program_that_is_not_there_is_named(run: Run) -> None:
    done = run("no-such-program")
    assert done.returncode == 127
    assert "no-such-program: no such program" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_program(number: signal.Signals, tmp_path: Path) -> None:
    text = (
        "import signal, sys\n"
        "def end(number, frame):\n"
        "    print('got', number, flush=True)\n"
        "    sys.exit(number + 20)\n"
        f"signal.signal({int(number)}, end)\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen(
        [*launcher(), "run", "--", sys.executable, "-c", text],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == "ready\n"
        process.send_signal(number)
        assert out.read() == f"got {int(number)}\n"
    assert process.wait(60) == int(number) + 20


def test_a_program_that_a_signal_ends_is_128_more(run: Run) -> None:
    done = run(text="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert done.returncode == 128 + signal.SIGKILL


def test_pytest_runs_under_it(
    run: Run, server: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    plugins = ("-p", "no:cacheprovider", "-p", "llm_cache_mem.testing.pytest_plugin")
    (tmp_path / "test_app.py").write_text(
        "def test_app():\n    " + asking(server).strip().replace("\n", "\n    ") + "\n"
    )
    for _ in range(2):
        done = run(sys.executable, "-m", "pytest", "-q", *plugins, "test_app.py")
        assert done.returncode == 0, done.stdout
    assert server.calls == 1


def test_no_password_of_a_url_is_printed() -> None:
    for url in ("redis://:CANARY@host/0", "redis://host/0?password=CANARY"):
        printed = _summary(Savings(processes=1, answered=1), url, "python")
        assert "host" in printed
        assert "CANARY" not in printed


def test_a_report_that_is_over_is_not_made_again_nor_sought_by_a_link(tmp_path: Path) -> None:
    """A process may outlive the command, whose folder another user could then make."""
    report = tmp_path / "report.jsonl"
    _Report(str(report)).write({"name": "begun"})
    assert not report.exists()
    victim = tmp_path / "victim"
    victim.touch()
    report.symlink_to(victim)
    _Report(str(report)).write({"name": "begun"})
    assert victim.read_bytes() == b""


def test_a_report_adds_up(tmp_path: Path) -> None:
    lines = [
        '{"name": "begun"}',
        '{"name": "miss", "tokens": null, "seconds": null, "usd": null}',
        '{"name": "miss", "tokens": null, "seconds": null, "usd": null}',
        '{"name": "coalesced", "tokens": 9, "seconds": 1.0, "usd": 0.5}',
        '{"name": "hit", "tokens": 9, "seconds": 1.0, "usd": null}',
        '{"name": "hi',  # the disk was full
    ]
    saved = savings_in(lines)
    assert (saved.processes, saved.answered, saved.made) == (1, 2, 1)
    assert (saved.tokens, saved.seconds, saved.usd) == (18, 2.0, 0.5)
    found = environment_for({"PYTHONPATH": "x"}, {}, tmp_path)["PYTHONPATH"]
    assert found.endswith(f"startup{os.pathsep}x")
