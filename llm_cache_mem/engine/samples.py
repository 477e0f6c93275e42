"""Tell callers that draw several answers at once that a cache gives them one."""

import logging
from collections.abc import Mapping
from typing import Any

from llm_cache_mem.keys.request import FUNCTION, Request
from llm_cache_mem.options import current

__all__ = ["SampleWarning", "temperature_of"]

_log = logging.getLogger(__name__)

# Where APIs other than OpenAI's keep the temperature: Gemini, Bedrock Converse, Ollama.
_CONFIGS = ("generationConfig", "generation_config", "inferenceConfig", "options")


def temperature_of(params: Mapping[str, Any]) -> float | None:
    """The temperature that a request names; None if it names none."""
    for place in (params, *(params.get(name) for name in _CONFIGS)):
        found = place.get("temperature") if isinstance(place, Mapping) else None
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            return float(found)
    return None


class SampleWarning:
    """Warns once for a cache."""

    def __init__(self) -> None:
        self._given = False

    def coalesced(self, request: Request) -> None:
        """Note that a call has got the answer of an identical one that was made at the same
        time."""
        if self._given or current().sample or FUNCTION in request.params:
            return
        if temperature_of(request.params):
            self._given = True
            _log.warning(
                "identical calls at once, with a temperature above 0, got one answer: for several"
                " samples write `with options(samples=number):` around them, or"
                ' options(mode="refresh") to ask again'
            )
