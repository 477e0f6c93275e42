"""The configuration of one demo process, passed to it as JSON."""

from typing import NamedTuple

__all__ = ["SessionConfig"]


class SessionConfig(NamedTuple):
    """Which process this is and what it may take.

    *number* is 1 before the restart and 2 after it. *price* is dollars per million tokens in and
    out. *seconds* is the model time to spend in both processes together; a slower model is asked
    fewer questions. *scale* is the resulting share of the questions, from 0 to 1, once chosen.
    After *limit* seconds the process starts no further question.
    """

    number: int
    models: dict[str, str]
    url: str | None
    database: str
    price: tuple[float, float] | None
    seconds: float
    limit: float
    scale: float | None = None
