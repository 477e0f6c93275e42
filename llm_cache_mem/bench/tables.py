"""The tables of a report, with numbers formatted for people: text and HTML show the same."""

from collections.abc import Iterator

from llm_cache_mem.accounting.render import dollars
from llm_cache_mem.bench.report import Document

__all__ = [
    "Table",
    "count",
    "duration",
    "facts",
    "limits",
    "percent",
    "reads_prompts",
    "seconds",
    "size",
    "tables",
    "tokens",
]

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


def duration(seconds: float | None) -> str:
    """Format *seconds* in the largest unit that fits; "none" for None."""
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


def limits(max_size: int | None, ttl_seconds: float | None) -> str:
    """Format the limits of a client cache."""
    return f"{size(max_size)}, {duration(ttl_seconds)}"


Table = tuple[str, tuple[str, ...], list[tuple[str, ...]], str]
"""Title, headings, rows and a note."""


def facts(document: Document) -> Iterator[tuple[str, str]]:
    """Yield the facts about the trace, as names and values."""
    trace, uncached, gaps = (
        document["trace"],
        document["uncached"],
        document["trace"]["gap_seconds"],
    )
    key = "" if trace["key"] == "whole" else f", key: {trace['key']}"
    yield "trace", f"{trace['name']} ({trace['format']}{key})"
    scopes = f", {count(trace['scopes'])} sessions end to end" if trace["scopes"] > 1 else ""
    yield "calls", f"{count(trace['calls'])} in {duration(trace['span_seconds'])}{scopes}"
    if trace["bad_lines"]:
        yield "bad lines", f"{count(trace['bad_lines'])}, skipped"
    yield "tokens", f"{tokens(trace['input_tokens'])} in, {tokens(trace['output_tokens'])} out"
    answering = duration(uncached["seconds"])
    yield "uncached", f"{dollars(uncached['usd'])}, {answering} of waiting for answers"
    rate = percent(trace["repeat_rate"], 3)
    limit = "the upper bound for a cache of whole answers"
    yield "exact repeats", f"{count(trace['repeats'])} = {rate} of calls: {limit}"
    if gaps := trace["gap_seconds"]:
        same = count(trace["repeats_of_same_length"])
        yield "", f"{same} of them have an answer as long as before"
        after = " / ".join(duration(gaps[name]) for name in ("p10", "p50", "p90"))
        yield "", f"they came after {after} (p10 / p50 / p90)"
    if document["provider"] and not reads_prompts(document):
        reason = "no recorded prompt of 1,024 tokens begins as an earlier one"
        yield "prompt cache", f"nothing to read: {reason}"


def reads_prompts(document: Document) -> bool:
    """Whether the provider's prompt cache would have read anything."""
    return any(row["tokens_read"] for row in document["provider"])


def tables(document: Document) -> Iterator[Table]:
    """Yield the tables of *document*."""
    if document["client"]:
        yield _client(document)
    if reads_prompts(document):
        yield _provider(document)
        if document["client"]:
            yield _both(document)
    if document["policies"]:
        yield _policies(document)


def _client(document: Document) -> Table:
    head = (
        "max_size",
        "ttl",
        "policy",
        "hit rate",
        "hits",
        "coalesced",
        "evicted",
        "tokens saved",
        "saved",
        "of the bill",
        "time saved",
    )
    rows: list[tuple[str, ...]] = [
        (
            *(
                size(row["max_size"]),
                duration(row["ttl_seconds"]),
                row["policy"],
                percent(row["hit_rate"], 3),
                count(row["hits"]),
            ),
            count(row["coalesced"]) if row["coalesce"] else "off",
            count(row["evictions"]),
            tokens(row["input_tokens_saved"] + row["output_tokens_saved"]),
            *(
                dollars(row["saved_usd"]),
                percent(row["saved_share"]),
                percent(row["seconds_saved_share"]),
            ),
        )
        for row in document["client"]
    ]
    return "Exact cache in the client (LLMCache)", head, rows, ""


def _provider(document: Document) -> Table:
    head = (
        "lives",
        "calls hit",
        "tokens read",
        "of input",
        "pay for all writes",
        "no surcharge",
        "write what is read",
    )
    rows: list[tuple[str, ...]] = [
        (
            *(
                duration(row["ttl_seconds"]),
                percent(row["hit_rate"]),
                tokens(row["tokens_read"]),
                percent(row["token_hit_rate"]),
            ),
            *(_saved(row[way]) for way in ("write_all", "free_writes", "oracle")),
        )
        for row in document["provider"]
    ]
    return (
        "Prompt cache of the provider",
        head,
        rows,
        (
            "Dollars saved if everything is written (cache_control on all), if writing is free, and"
            " if only what a later call reads is written."
        ),
    )


def _both(document: Document) -> Table:
    head = ("max_size", "ttl", "policy", "prompt cache lives", "pay for all writes", "no surcharge")
    rows: list[tuple[str, ...]] = [
        (
            size(row["max_size"]),
            duration(row["ttl_seconds"]),
            row["policy"],
            duration(both["ttl_seconds"]),
            _saved(both["write_all"]),
            _saved(both["free_writes"]),
        )
        for row in document["client"]
        for both in row["with_provider"]
    ]
    return "Both: the client's cache in front of the provider's", head, rows, ""


def _policies(document: Document) -> Table:
    names = list(document["policies"][0]["hits"])
    rows: list[tuple[str, ...]] = [
        (
            *(size(row["max_size"]), count(row["best"])),
            *(
                f"{count(hits)} = {percent(hits / row['best'] if row['best'] else 1, 0)}"
                for hits in row["hits"].values()
            ),
        )
        for row in document["policies"]
    ]
    note = (
        "Hits by eviction policy, without expiry, with immediate answers; in percent of the best"
        " possible (Belady)."
    )
    return (
        "Eviction policies compared with the best possible",
        ("max_size", "best", *names),
        rows,
        note,
    )


def _saved(way: Document) -> str:
    return f"{dollars(way['saved_usd'])} = {percent(way['saved_share'])}"
