"""Logging, loaded when there is first something to say: importing it would take as long as all of
this library."""

__all__ = ["warning"]


def warning(logger: str, text: str, *args: object, exc_info: bool = False) -> None:
    """Log a warning as *logger*, from the caller's line; *args* are formatted only if somebody
    listens."""
    import logging

    logging.getLogger(logger).warning(text, *args, exc_info=exc_info, stacklevel=2)
