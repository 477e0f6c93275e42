"""DSPy's cache, memory over disk as it is by default, under ``LM.forward``."""

import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import dspy

from benchmarks.probes.contestant import OfObjects

__all__ = ["DSPy"]


class DSPy(OfObjects):
    name = "DSPy"
    configured = (
        "`configure_cache(disk_cache_dir=...)`, `LM.forward`: memory over disk, as by default; in"
        " memory only for the bound"
    )
    shared = "file"
    bounded = True
    packages = ("dspy", "diskcache")

    def prepare(self) -> None:
        settings: dict[str, Any] = {}
        if self.max_size is not None:
            settings = {"memory_max_entries": self.max_size, "enable_disk_cache": False}
        dspy.configure_cache(disk_cache_dir=str(self.folder / "dspy"), **settings)

    def _model(self, request: dict[str, Any]) -> Any:
        settings = {
            "api_base": request.pop("base_url", self.base_url),
            "api_key": request.pop("api_key", "sk-probe"),
        }
        return dspy.LM(f"openai/{request.pop('model')}", cache=True, num_retries=0, **settings)

    def ask(self, **request: Any) -> Any:
        messages = request.pop("messages")
        return self._model(request).forward(messages=messages, **_flat(request))

    async def aask(self, **request: Any) -> Any:
        messages = request.pop("messages")
        return await self._model(request).aforward(messages=messages, **_flat(request))

    def close(self) -> None:
        if dspy.cache.enable_disk_cache:
            dspy.cache.disk_cache.close()


def _flat(request: dict[str, Any]) -> dict[str, Any]:
    request.update(request.pop("extra_body", {}))
    return request
