"""Read the requests of a run as they are at that moment."""

from collections.abc import Mapping
from typing import Any

__all__ = ["check_requests", "read_request"]


def check_requests(requests: Any) -> None:
    """TypeError for a single request, or the path of a file, in place of several requests."""
    if isinstance(requests, str | bytes | Mapping):
        raise TypeError(
            f"requests are several, such as a list of dicts, not one {type(requests).__name__}"
        )


def read_request(given: Any) -> tuple[Any, dict[str, Any]]:
    """The messages of a request, and its other parameters.

    Its lists and dicts are copied: a generator may fill the same ones again for the next request.
    TypeError or ValueError for anything else.
    """
    if not isinstance(given, Mapping) or "messages" not in given:
        found = "one without" if isinstance(given, Mapping) else type(given).__name__
        raise TypeError(
            f'a request is a dict with "messages" and the other parameters, not {found}'
        )
    if given.get("stream"):
        raise ValueError("answers are taken whole here: leave out stream=True")
    params = {name: _copied(value) for name, value in given.items()}
    return params.pop("messages"), params


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if type(value) is list else value
