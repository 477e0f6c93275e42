"""What the demo asks of each of its processes."""

from typing import NamedTuple

__all__ = ["Orders"]


class Orders(NamedTuple):
    """What the parent asks for. *number*: 1 before the restart, 2 after it. *price*: dollars per
    million tokens in and out.

    *seconds*: what the model's own time should add up to in both; fewer questions are asked of a
      slower model. *scale*: that
    choice, from 0 to 1, if it has been made. *limit*: seconds after which this process asks nothing
    more.
    """

    number: int
    models: dict[str, str]
    url: str | None
    database: str
    price: tuple[float, float] | None
    seconds: float
    limit: float
    scale: float | None = None
