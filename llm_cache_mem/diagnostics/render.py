"""What stands between requests and hits, as tables for a notebook: of one miss, or of a whole
run."""

from html import escape
from typing import TYPE_CHECKING

from llm_cache_mem.accounting.render import table
from llm_cache_mem.diagnostics.explain import SHOWN, Explanation

if TYPE_CHECKING:
    from llm_cache_mem.diagnostics.survey import Survey

__all__ = ["as_html", "survey_as_html"]


def as_html(found: Explanation) -> str:
    """The differences to the nearest stored request as a table; where there are none, the sentence
    that says why."""
    if found.state != "absent" or not found.differences:
        return f"<p>{escape(str(found))}</p>"
    rows = [(difference.path, *difference.sides()) for difference in found.differences[:SHOWN]]
    more = len(found.differences) - SHOWN
    tail = f"<p>and {more:,} more</p>" if more > 0 else ""
    head = (
        f"<p>nearest of {found.compared:,} stored requests:"
        f" <code>{escape(found.nearest or '')}</code></p>"
    )
    return head + table([("what differs", "stored", "asked"), *rows], texts=3) + tail


def survey_as_html(found: "Survey") -> str:
    """The fields that cost most hits, and the key function that would win them back."""
    parts = [
        f"<p>{found.requests:,} requests, {found.with_share(found.hits)} equal to an earlier"
        " one</p>"
    ]
    if found.costs:
        parts.append(
            table(
                [
                    ("field that costs hits", "hits"),
                    *((cost.field, f"{cost.hits:,}") for cost in found.costs),
                ]
            )
        )
    if found.remedies:
        rows = [
            (f"without {remedy.why}", found.with_share(remedy.hits)) for remedy in found.remedies
        ]
        parts.append(
            table([("what would win them back, if it does not change the answer", "hits"), *rows])
        )
        parts.append(f"<p><code>key_fn={escape(found.remedies[-1].key_fn)}</code></p>")
    elif not found.costs:
        parts.append("<p>no single field stands between a request and an earlier one</p>")
    return "".join(parts)
