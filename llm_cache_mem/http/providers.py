"""Which servers are those of model providers, and which of their endpoints are not cached.

``install`` sees every request of a process, so it asks here whether one is for a model. A server of
your own that speaks a provider's protocol is named by ``hosts=``; one on this machine is recognised
by its paths.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal

__all__ = ["Hosts", "Server", "server_of", "uncached_reason"]

Server = Literal["provider", "loopback"]

_PROVIDERS: Final = frozenset(
    {
        "ai-gateway.vercel.sh", "aiplatform.googleapis.com", "api-inference.huggingface.co",
        "api.ai21.com", "api.aimlapi.com", "api.anthropic.com", "api.baseten.co", "api.cerebras.ai",
        "api.cohere.ai", "api.cohere.com", "api.deepinfra.com", "api.deepseek.com",
        "api.fireworks.ai", "api.friendli.ai", "api.groq.com", "api.hyperbolic.xyz",
        "api.inceptionlabs.ai", "api.jina.ai", "api.lambda.ai", "api.llama.com",
        "api.minimax.chat", "api.minimax.io", "api.minimaxi.com", "api.mistral.ai",
        "api.moonshot.ai", "api.moonshot.cn", "api.morphllm.com", "api.novita.ai",
        "api.openai.com", "api.perplexity.ai", "api.portkey.ai", "api.reka.ai",
        "api.sambanova.ai", "api.siliconflow.cn", "api.siliconflow.com", "api.stepfun.com",
        "api.studio.nebius.ai", "api.studio.nebius.com", "api.tokenfactory.nebius.com",
        "api.together.ai", "api.together.xyz", "api.upstage.ai", "api.venice.ai",
        "api.voyageai.com", "api.writer.com", "api.x.ai", "api.z.ai",
        "ark.cn-beijing.volces.com", "codestral.mistral.ai", "dashscope-intl.aliyuncs.com",
        "dashscope.aliyuncs.com", "gateway.ai.cloudflare.com", "gateway.helicone.ai",
        "generativelanguage.googleapis.com", "inference.baseten.co", "integrate.api.nvidia.com",
        "llm.chutes.ai", "models.github.ai", "models.inference.ai.azure.com", "oai.helicone.ai",
        "ollama.com", "open.bigmodel.cn", "openrouter.ai", "production.api.morphllm.com",
        "qianfan.baidubce.com", "router.huggingface.co",
    }
)  # fmt: skip
_PROVIDER_ENDINGS: Final = (
    ".openai.azure.com",
    ".openai.azure.us",
    ".services.ai.azure.com",
    ".cognitiveservices.azure.com",
    ".inference.ai.azure.com",
    ".models.ai.azure.com",
    "-aiplatform.googleapis.com",
    ".aiplatform.googleapis.com",
    ".rep.googleapis.com",
    ".endpoints.huggingface.cloud",
    ".inference.net",
    ".api.openai.com",
    ".api.anthropic.com",
    ".ml.cloud.ibm.com",
)
_AMAZON: Final = re.compile(
    r"^(bedrock-(runtime|mantle)(-fips)?|runtime\.sagemaker(-fips)?)\.[a-z0-9-]+\."
    r"(amazonaws\.com(\.cn)?|api\.aws)$"
)
_LOOPBACK: Final = re.compile(r"^(localhost|.+\.localhost|127(\.\d{1,3}){3}|::1|0\.0\.0\.0)$")

# What generates or counts without being cached: counted, so that no call is uncached in silence.
_UNCACHED: Final = (
    ("audio", r"audio/(speech|transcriptions|translations)|text-to-speech/.+"),
    ("images", r"images/(generations|edits|variations)"),
    ("videos", r"videos(/generations)?"),
    ("OCR", r"ocr"),
    (
        "batches",
        r"(messages/)?batches|[^/]+(?::|%3A)(asyncBatchEmbedContent|batchGenerateContent)",
    ),
    ("compactions", r"responses/compact"),
    ("predictions", r"[^/]+(?::|%3A)(predict|predictLongRunning|rawPredictLongRunning|explain)"),
    ("watsonx", r"ml/v1/(deployments/[^/]+/)?text/[a-z_]+"),
    ("SageMaker", r"endpoints/[^/]+/(async-)?invocations(-response-stream)?"),
    ("async invocations", r"async-invoke"),
    ("assistants", r"threads/runs|threads/[^/]+/runs"),
    ("inference tasks", r"hf-inference/models/.+|models/[^/]+/pipeline/.+"),
)
_UNCACHED_PATH: Final = re.compile(
    "|".join(
        rf"(?P<_{number}>(?:^|/)(?:{pattern})/?$)" for number, (_, pattern) in enumerate(_UNCACHED)
    )
)


@lru_cache(maxsize=1024)
def server_of(host: str) -> Server | None:
    """Whether *host* is a provider's, or is this machine; None for any other."""
    host = host.lower().rstrip(".")
    if host in _PROVIDERS or host.endswith(_PROVIDER_ENDINGS) or _AMAZON.match(host):
        return "provider"
    return "loopback" if _LOOPBACK.match(host) else None


def uncached_reason(method: str, path: str) -> str | None:
    """Under which reason a request is counted as skipped whose endpoint generates or counts, but
    has no form in the cache. None for every other path."""
    if method != "POST":
        return None
    found = _UNCACHED_PATH.search(path)
    return None if found is None else _UNCACHED[int(str(found.lastgroup)[1:])][0]


class Hosts:
    """The servers that a user names: ``llm.internal``, ``llm.internal:8000``, ``*.example.com``, or
    a base URL."""

    def __init__(self, names: str | Iterable[str] = ()) -> None:
        names = (names,) if isinstance(names, str) else names
        self._names = frozenset(map(_host, names))
        self._exact = frozenset(name for name in self._names if not name.startswith("*"))
        self._endings = tuple(name[1:] for name in self._names if name.startswith("*"))

    def __contains__(self, host: str) -> bool:
        """Whether *host*, with or without its port, is one of them."""
        bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return host in self._exact or bare in self._exact or bare.endswith(self._endings or "\0")

    def __bool__(self) -> bool:
        return bool(self._names)

    def __or__(self, other: "Hosts") -> "Hosts":
        return Hosts(self._names | other._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hosts) and self._names == other._names

    def __hash__(self) -> int:
        return hash(self._names)


def _host(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"hosts takes names of servers, not {type(name).__name__}")
    host = name.strip().lower().partition("://")[2] or name.strip().lower()
    host = host.partition("/")[0].rpartition("@")[2]
    if not host or " " in host or host == "*":
        raise ValueError(f"hosts takes names such as 'llm.internal:8000', not {name!r}")
    return host
