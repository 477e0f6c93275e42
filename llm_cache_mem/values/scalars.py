"""Scalars that JSON lacks: bytes, dates and times, decimals, UUIDs."""

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from functools import cache, partial
from typing import Any, NamedTuple

from llm_cache_mem._util.fork import finished_before_fork

__all__ = ["SCALAR_TAGS", "Scalar", "decode_scalar", "from_base64", "scalars", "to_base64"]

SCALAR_TAGS = ("$bytes", "$datetime", "$time", "$date", "$timedelta", "$decimal", "$uuid")


class Scalar(NamedTuple):
    """One such type: its tag, how a value comes apart into what can be encoded, and how it is put
    together again."""

    tag: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def to_base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def from_base64(text: str) -> bytes:
    return a2b_base64(text, strict_mode=True)


def _zone(value: Any) -> Any:
    if value is None:
        return None
    if type(value) is timezone:
        # how copy and pickle take it apart
        return list(value.__getinitargs__())  # type: ignore[attr-defined]
    if type(value).__module__.startswith("pydantic_core"):
        # a fixed offset too, and equal to the same timezone
        return [value.utcoffset(None)]
    raise ValueError(
        "a time zone that is not a fixed offset; use datetime.astimezone(timezone.utc)"
    )


def _clock(value: Any) -> Any:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone(value.tzinfo)]


def _from_clock(cls: Any, parts: Any) -> Any:
    text, fold, zone = parts
    tzinfo = None if zone is None else timezone(*zone)
    return cls.fromisoformat(text).replace(fold=fold, tzinfo=tzinfo)


@cache
def scalars() -> dict[type, Scalar]:
    """By type; no instance of these types can change."""
    with finished_before_fork():
        from decimal import Decimal  # these two take 5 ms to import
        from uuid import UUID

    return {
        bytes: Scalar("$bytes", to_base64, from_base64),
        datetime: Scalar("$datetime", _clock, partial(_from_clock, datetime)),
        time: Scalar("$time", _clock, partial(_from_clock, time)),
        date: Scalar("$date", date.isoformat, date.fromisoformat),
        timedelta: Scalar(
            "$timedelta",
            lambda value: [value.days, value.seconds, value.microseconds],
            lambda parts: timedelta(*parts),
        ),
        Decimal: Scalar("$decimal", str, Decimal),
        UUID: Scalar("$uuid", str, UUID),
    }


@cache
def _decoders() -> dict[str, Callable[[Any], Any]]:
    return {tag: decode for tag, _, decode in scalars().values()}


def decode_scalar(tag: str, parts: Any) -> Any:
    """What *tag* makes of *parts*; any error of the type itself when it did not write them."""
    return _decoders()[tag](parts)
