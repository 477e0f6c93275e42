"""Scalars that JSON lacks: bytes, dates and times, decimals, UUIDs."""

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = [
    "SCALAR_TAGS",
    "Scalar",
    "decode_scalar",
    "from_base64",
    "scalar_types",
    "scalars",
    "to_base64",
]

SCALAR_TAGS = ("$bytes", "$datetime", "$time", "$date", "$timedelta", "$decimal", "$uuid")


class Scalar(NamedTuple):
    """One such type: its tag, how a value comes apart into what can be encoded, and how it is put
    together again."""

    tag: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def to_base64(data: bytes) -> str:
    from binascii import b2a_base64

    return b2a_base64(data, newline=False).decode()


def from_base64(text: str) -> bytes:
    from binascii import a2b_base64

    return a2b_base64(text, strict_mode=True)


@lru_cache(maxsize=1)
def scalars() -> dict[type, Scalar]:
    """By type. The types are imported here, for a program that caches plain dicts needs none of
    them."""
    from datetime import date, datetime, time, timedelta, timezone
    from decimal import Decimal
    from uuid import UUID

    def zone(value: Any) -> Any:
        if value is None:
            return None
        if type(value) is timezone:
            # how copy and pickle take it apart
            return list(value.__getinitargs__())  # type: ignore[attr-defined]
        if type(value).__module__.startswith(
            "pydantic_core"
        ):  # a fixed offset too, and equal to the same timezone
            return [value.utcoffset(None)]
        raise ValueError(
            "a time zone that is not a fixed offset; use datetime.astimezone(timezone.utc)"
        )

    def clock(value: Any) -> Any:
        return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, zone(value.tzinfo)]

    def unclock(cls: Any) -> Callable[[Any], Any]:
        def decode(parts: Any) -> Any:
            text, fold, tz = parts
            return cls.fromisoformat(text).replace(
                fold=fold, tzinfo=None if tz is None else timezone(*tz)
            )

        return decode

    return {
        bytes: Scalar("$bytes", to_base64, from_base64),
        datetime: Scalar("$datetime", clock, unclock(datetime)),
        time: Scalar("$time", clock, unclock(time)),
        date: Scalar("$date", date.isoformat, date.fromisoformat),
        timedelta: Scalar(
            "$timedelta",
            lambda value: [value.days, value.seconds, value.microseconds],
            lambda parts: timedelta(*parts),
        ),
        Decimal: Scalar("$decimal", str, Decimal),
        UUID: Scalar("$uuid", str, UUID),
    }


@lru_cache(maxsize=1)
def _decoders() -> dict[str, Callable[[Any], Any]]:
    return {tag: decode for tag, _, decode in scalars().values()}


def decode_scalar(tag: str, parts: Any) -> Any:
    """What *tag* makes of *parts*; any error of the type itself when it did not write them."""
    return _decoders()[tag](parts)


def scalar_types() -> Collection[type]:
    """The types that scalars() takes apart; none of their instances can change."""
    return scalars().keys()
