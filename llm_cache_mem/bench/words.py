"""Numbers and names of a report as people read them, the same in text, pages and pictures."""

__all__ = ["bound", "count", "percent", "seconds", "size", "span", "tokens"]

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def count(number: int) -> str:
    return f"{number:,}"


def tokens(number: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:,.1f}{unit}"
    return f"{number:,.0f}"


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def span(seconds: float | None) -> str:
    """Seconds in the largest unit that they fill; "none" for None."""
    if seconds is None:
        return "none"
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def seconds(time: float) -> str:
    return f"{1000 * time:,.1f} ms" if time < 1 else f"{time:,.2f} s"


def size(entries: int | None) -> str:
    return "no limit" if entries is None else f"{entries:,}"


def bound(max_size: int | None, ttl_seconds: float | None) -> str:
    """How a client cache is bounded, in words."""
    return f"{size(max_size)}, {span(ttl_seconds)}"
