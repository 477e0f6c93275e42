"""What ``stats`` sums up is bounded, however many names a store holds."""

from llm_cache_mem.accounting.bounded import MOST_NAMES, OTHER
from llm_cache_mem.cli.report import Summary


def test_names_beyond_the_bound_are_summed_as_other() -> None:
    row = {"kind": "v", "model": "m", "expired": False, "bytes": 10, "usage": None}
    row |= {"seconds": None, "cost_usd": None, "stored_at": 1.0}
    summary = Summary()
    for number in range(MOST_NAMES + 50):
        summary.add(row | {"namespace": f"n{number}"})
    for _ in range(3):
        summary.add(row | {"namespace": "large"})
    found = summary.as_dict()
    assert (found["entries"], len(found["by_namespace"])) == (MOST_NAMES + 53, MOST_NAMES + 1)
    assert next(iter(found["by_namespace"].items()))[0] == "large"
    assert found["by_namespace"][OTHER]["entries"] == found["by_namespace"][OTHER]["bytes"] / 10
    assert sum(group["entries"] for group in found["by_namespace"].values()) == found["entries"]
