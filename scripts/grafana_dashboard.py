"""Write the Grafana dashboard for the Prometheus metrics of a cache: docs/assets/grafana.json.

``python scripts/grafana_dashboard.py --check`` fails where the file is not what this would write.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["FILE", "dashboard", "main"]

FILE = Path(__file__).resolve().parents[1] / "docs" / "assets" / "grafana.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 8
CACHES = '{cache=~"$cache"}'


def rate(metric: str, by: str = "", **labels: str) -> str:
    """The rate a second of a counter, summed *by* a label."""
    wanted = "".join(f',{name}="{value}"' for name, value in labels.items())
    selected = f'llm_cache_mem_{metric}{{cache=~"$cache"{wanted}}}[$__rate_interval]'
    return f"sum{f' by ({by})' if by else ''} (rate({selected}))"


def quantile(share: float, metric: str) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le')})"


def gauge(metric: str, how: str) -> str:
    """The current value of a gauge by cache, over processes as *how* says."""
    return f"{how} by (cache) (llm_cache_mem_{metric}{CACHES})"


HITS, MISSES = rate("requests_total", outcome="hit"), rate("requests_total", outcome="miss")
COALESCED = rate("requests_total", outcome="coalesced")
# title, unit, then a query and its legend for each line
PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Requests by outcome", "reqps", ((rate("requests_total", "outcome"), "{{outcome}}"),)),
    ("Hit rate", "percentunit", ((f"{HITS} / ({HITS} + {MISSES})", "hit rate"),)),
    ("Calls avoided", "reqps", ((HITS, "hits"), (f"{COALESCED} or vector(0)", "coalesced"))),
    (
        "Dollars an hour",
        "currencyUSD",
        (
            (f"3600 * {rate('saved_dollars_total')}", "saved"),
            (f"3600 * {rate('paid_dollars_total')}", "paid"),
        ),
    ),
    ("Tokens saved", "short", ((rate("saved_tokens_total", "type"), "{{type}}"),)),
    (
        "Dollars saved an hour by model",
        "currencyUSD",
        ((f"3600 * {rate('saved_dollars_total', 'model')}", "{{model}}"),),
    ),
    (
        "Not stored, by reason",
        "reqps",
        ((rate("requests_total", "reason", outcome="skipped"), "{{reason}}"),),
    ),
    (
        "Age of entries at a hit",
        "s",
        (
            (quantile(0.5, "entry_age_seconds"), "median"),
            (quantile(0.95, "entry_age_seconds"), "95 %"),
        ),
    ),
    (
        "Duration of calls",
        "s",
        ((quantile(0.5, "call_seconds"), "median"), (quantile(0.95, "call_seconds"), "95 %")),
    ),
    (
        "Duration of store operations",
        "s",
        ((quantile(0.5, "store_seconds"), "median"), (quantile(0.99, "store_seconds"), "99 %")),
    ),
    (
        "Entries",
        "short",
        ((gauge("entries", "max"), "{{cache}}"),),
    ),
    ("Bytes", "bytes", ((gauge("bytes", "max"), "{{cache}}"),)),
    ("Callers that wait", "short", ((gauge("single_flight_waiters", "sum"), "{{cache}}"),)),
    (
        "Processes that bypass a failing store",
        "short",
        ((gauge("circuit_breaker_open", "sum"), "{{cache}}"),),
    ),
    ("Store errors", "reqps", ((rate("requests_total", "reason", outcome="error"), "{{reason}}"),)),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "title": "llm-cache-mem",
        "uid": "llm-cache-mem",
        "tags": ["llm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": [_panel(number) for number in range(len(PANELS))],
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    yield {
        "name": "cache",
        "label": "Cache",
        "type": "query",
        "datasource": SOURCE,
        "query": "label_values(llm_cache_mem_entries, cache)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int) -> dict[str, Any]:
    title, unit, queries = PANELS[number]
    row, column = divmod(number, 24 // WIDTH)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
            }
            for place, (query, legend) in enumerate(queries)
        ],
    }


def main(arguments: list[str]) -> int:
    """Write the file, or with ``--check`` compare it."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in arguments:
        return 0 if FILE.read_text(encoding="utf-8") == text else 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
