"""The cache for every language: a gateway that any SDK can be pointed to by its base URL.

``llm-cache-mem serve`` runs it. Needs the extra ``gateway``.
"""

from typing import TYPE_CHECKING, Any

from llm_cache_mem.gateway.config import GatewayConfig
from llm_cache_mem.gateway.credentials import credential_namespace

if TYPE_CHECKING:
    from llm_cache_mem.gateway.app import Gateway

__all__ = ["Gateway", "GatewayConfig", "credential_namespace"]


def __getattr__(name: str) -> Any:
    """Load the gateway itself, which needs the extra, only for those who run one."""
    if name == "Gateway":
        from llm_cache_mem.gateway.app import Gateway

        return Gateway
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
