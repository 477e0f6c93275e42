"""The history checker sees what it is there to see."""

import pytest
from stores.history import Call, violations


@pytest.mark.parametrize(
    ("history", "count"),
    [
        ([Call("put", "k", 1, 1, 2), Call("get", "k", 1, 3, 4)], 0),
        ([Call("get", "k", None, 1, 2), Call("put", "k", 1, 3, 4)], 0),
        ([Call("put", "k", 1, 1, 2), Call("put", "k", 2, 3, 6), Call("get", "k", 1, 4, 5)], 0),
        ([Call("put", "k", 1, 1, 9), Call("get", "k", None, 2, 3), Call("get", "k", 1, 4, 5)], 0),
        (
            [
                Call("put", "k", 1, 1, 2),
                Call("delete", "k", None, 3, 4),
                Call("get", "k", None, 5, 6),
            ],
            0,
        ),
        (
            [
                Call("put", "k", 1, 1, 2),
                Call("delete", "k", None, 3, 9),
                Call("get", "k", None, 5, 6),
            ],
            0,
        ),
        (
            [Call("put", "k", 1, 1, 2), Call("put", "k", 2, 3, 4), Call("get", "k", 1, 5, 6)],
            1,
        ),  # stale
        (
            [Call("put", "k", 1, 1, 2), Call("delete", "k", None, 3, 4), Call("get", "k", 1, 5, 6)],
            1,
        ),  # resurrected
        ([Call("put", "k", 1, 1, 2), Call("get", "k", None, 3, 4)], 1),  # lost
        (
            [
                Call("delete", "k", None, 1, 2),
                Call("put", "k", 1, 3, 4),
                Call("get", "k", None, 5, 6),
            ],
            1,
        ),  # lost
        ([Call("get", "k", 7, 1, 2)], 1),  # invented
        ([Call("get", "k", 1, 1, 2), Call("put", "k", 1, 3, 4)], 1),  # from the future
    ],
)
def test_a_history_is_judged(history: list[Call], count: int) -> None:
    assert len(violations(history)) == count


def test_an_evicting_store_may_miss() -> None:
    assert (
        violations([Call("put", "k", 1, 1, 2), Call("get", "k", None, 3, 4)], evicting=True) == []
    )
