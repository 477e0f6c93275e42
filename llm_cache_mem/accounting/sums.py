"""Sums: running sums of calls, their tokens, seconds and dollars."""

__all__ = ["Sums"]


class Sums:
    """Running sums of *calls*; *unpriced* counts those whose price is unknown. Not thread-safe."""

    def __init__(self) -> None:
        self.calls: int = 0
        self.input_tokens = self.output_tokens = self.unpriced = 0
        self.seconds = self.cost_usd = 0.0

    def merge(self, other: "Sums") -> None:
        """Add the sums of *other*."""
        self.calls += other.calls
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.unpriced += other.unpriced
        self.seconds += other.seconds
        self.cost_usd += other.cost_usd

    def add(
        self,
        usage: tuple[int, ...] | None,
        seconds: float | None,
        cost_usd: float | None,
        *,
        calls: int = 1,
    ) -> None:
        """Add one call, or so many *calls* like it. *usage* begins with input and output tokens;
        None is unknown."""
        self.calls += calls
        if usage is not None:
            self.input_tokens += usage[0] * calls
            self.output_tokens += usage[1] * calls
        if seconds is not None:
            self.seconds += seconds * calls
        if cost_usd is not None:
            self.cost_usd += cost_usd * calls
        else:
            self.unpriced += calls
