"""The cache for every language: a gateway that any SDK can be pointed to by its base URL.

``llm-cache-mem serve`` runs it. Needs the extra ``gateway``.
"""

from llm_cache_mem.gateway.app import Gateway
from llm_cache_mem.gateway.config import GatewayConfig
from llm_cache_mem.gateway.credentials import credential_namespace

__all__ = ["Gateway", "GatewayConfig", "credential_namespace"]
