"""JSON text of plain values, by an encoder that is made once and not for each call."""

import json
from collections.abc import Callable
from typing import Any

__all__ = ["encoder"]


def encoder(
    *,
    separators: tuple[str, str],
    escape: Callable[[str], str],
    sort_keys: bool = False,
    ensure_ascii: bool = False,
) -> Callable[[Any], str]:
    """What ``json.dumps`` does with these arguments, for plain values without cycles. ValueError
    for NaN and infinity.

    *escape* writes a string, its quotes included, as *ensure_ascii* says.
    """
    standard = json.JSONEncoder(
        separators=separators, sort_keys=sort_keys, ensure_ascii=ensure_ascii, allow_nan=False
    )
    try:
        # No table of open containers, which threads could not share. It is private to json, hence
        # the check below.
        make = json.encoder.c_make_encoder  # type: ignore[attr-defined]
        item, key = separators
        chunks = make(None, _no_default, escape, None, key, item, sort_keys, False, False)

        def encode(value: Any) -> str:
            return "".join(chunks(value, 0))

        probe = {"b": [1, -0.0, 1e16, True, None, {}], "a": ['é\U0001f600\x7f"\\\n', []]}
        return encode if encode(probe) == standard.encode(probe) else standard.encode
    except Exception:  # noqa: BLE001 - another Python, another signature
        return standard.encode


def _no_default(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is not plain")
