"""Warmed: the result of one request that warmed a provider's prompt cache."""

from typing import NamedTuple

from llm_cache_mem.prompt_cache.prefix import Prefix

__all__ = ["Warmed"]


class Warmed(NamedTuple):
    """The result of one warming. Tokens are the provider's own count; dollars are None if the price
    is not known.

    *written_tokens* is 0 where the provider does not report writes (OpenAI before gpt-5.6).
    *cost_usd* and *seconds* include the request of ``verify``. *verified*: whether a second request
    read the prefix, None if none was sent. *expires_at*: Unix seconds after which the provider may
    have dropped the prefix if it is not used.
    """

    prefix: Prefix
    input_tokens: int
    written_tokens: int
    read_tokens: int
    output_tokens: int
    cost_usd: float | None
    seconds: float
    expires_at: float
    verified: bool | None = None
    verified_read_tokens: int = 0
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        cost = "unknown price" if self.cost_usd is None else f"${self.cost_usd:,.6f}"
        proof = (
            ""
            if self.verified is None
            else (
                f", {'verified' if self.verified else 'NOT verified'}"
                f" ({self.verified_read_tokens:,} read)"
            )
        )
        counts = (
            f"{self.written_tokens:,} tokens written, {self.read_tokens:,} read of"
            f" {self.input_tokens:,}"
        )
        return "\n".join(
            [
                f"{self.prefix.name}: {counts}, {cost}, {self.seconds:.2f} s{proof}",
                *(f"! {text}" for text in self.warnings),
            ]
        )
