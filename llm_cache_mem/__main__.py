"""``python -m llm_cache_mem``, and what the ``llm-cache-mem`` command calls."""

import sys

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> int:
    """Run the command line; 2, and a line on stderr, where its libraries are not installed."""
    try:
        return _run()
    except KeyboardInterrupt:  # while the libraries were loading: commands see to it themselves
        return _INTERRUPTED


def _run() -> int:
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as exc:
        if exc.name not in ("rich", "typer"):
            raise
        sys.stderr.write(
            f"llm-cache-mem: the command line needs {exc.name}: pip install 'llm-cache-mem[cli]'\n"
        )
        return 2
    from llm_cache_mem.cli import app

    app.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
