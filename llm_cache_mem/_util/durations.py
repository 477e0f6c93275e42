"""Durations as text: ``90s``, ``1h30m``, ``7d``."""

import re

__all__ = ["parse_duration"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_PART = r"(\d+(?:\.\d+)?)([smhdw])"


def parse_duration(text: str) -> float:
    """The seconds that *text* stands for; ValueError, which shows the format, for any other text,
    a number without a unit included."""
    if re.fullmatch(f"(?:{_PART})+", text, re.ASCII) is None:
        raise ValueError(f"{text!r} is not a duration: write 7d, 1h30m or 90s (s, m, h, d, w)")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
