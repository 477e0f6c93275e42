"""The tables of a report, in words: what text and pages show."""

from collections.abc import Iterator

from llm_cache_mem.accounting.render import dollars
from llm_cache_mem.bench.report import Document

__all__ = [
    "Block",
    "bound",
    "count",
    "facts",
    "percent",
    "seconds",
    "size",
    "span",
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


Block = tuple[str, tuple[str, ...], list[tuple[str, ...]], str]
"""Title, headings, rows and a note."""


def facts(document: Document) -> Iterator[tuple[str, str]]:
    """What the trace holds, as names and values."""
    trace = document["trace"]
    yield (
        "trace",
        (
            f"{trace['name']}"
            f" ({trace['format']}{'' if trace['key'] == 'whole' else ', key: ' + trace['key']})"
        ),
    )
    scopes = f", {count(trace['scopes'])} sessions laid end to end" if trace["scopes"] > 1 else ""
    yield "calls", f"{count(trace['calls'])} in {span(trace['span_seconds'])}{scopes}"
    if trace["bad_lines"]:
        yield "bad lines", f"{count(trace['bad_lines'])}, left out"
    yield "tokens", f"{tokens(trace['input_tokens'])} in, {tokens(trace['output_tokens'])} out"
    yield (
        "uncached",
        (
            f"{dollars(document['uncached']['usd'])}, {span(document['uncached']['seconds'])} of"
            " answering"
        ),
    )
    repeats = (
        f"{count(trace['repeats'])} = {percent(trace['repeat_rate'], 3)} of calls: what no cache of"
        " whole answers can exceed"
    )
    yield "exact repeats", repeats
    if trace["gap_seconds"]:
        gaps = trace["gap_seconds"]
        yield (
            "",
            f"{count(trace['repeats_of_same_length'])} of them got an answer as long as before",
        )
        yield (
            "",
            (
                f"they came after {span(gaps['p10'])} / {span(gaps['p50'])} / {span(gaps['p90'])}"
                " (p10 / p50 / p90)"
            ),
        )


def tables(document: Document) -> Iterator[Block]:
    """Title, headings, rows and a note of each table."""
    if document["client"]:
        yield _client(document)
    if document["provider"]:
        yield _provider(document)
    if document["client"] and document["provider"]:
        yield _both(document)
    if document["policies"]:
        yield _policies(document)


def _client(document: Document) -> Block:
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
                span(row["ttl_seconds"]),
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


def _provider(document: Document) -> Block:
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
                span(row["ttl_seconds"]),
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
            "Dollars saved by who writes what: everything (cache_control on all), at no price, only"
            " what a later call reads."
        ),
    )


def _both(document: Document) -> Block:
    head = ("max_size", "ttl", "policy", "prompt cache lives", "pay for all writes", "no surcharge")
    rows: list[tuple[str, ...]] = [
        (
            size(row["max_size"]),
            span(row["ttl_seconds"]),
            row["policy"],
            span(both["ttl_seconds"]),
            _saved(both["write_all"]),
            _saved(both["free_writes"]),
        )
        for row in document["client"]
        for both in row["with_provider"]
    ]
    return "Both: the client's cache in front of the provider's", head, rows, ""


def _policies(document: Document) -> Block:
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
        "Hits by eviction policy, entries living for ever, answers there at once; in percent of the"
        " best possible (Belady)."
    )
    return "Eviction: how far from the best possible", ("max_size", "best", *names), rows, note


def _saved(way: Document) -> str:
    return f"{dollars(way['saved_usd'])} = {percent(way['saved_share'])}"
