"""What an answer depends on: names of documents and entities whose invalidation ends it."""

from collections.abc import Hashable, Iterable

__all__ = ["Dependencies"]


class Dependencies:
    """The sorted *names* that the answer to one call depends on.

    *mark* stands for their generations when the call began. It is None until the cache has looked
    the request up, and where the store does not tell; then the answer is not stored, nor shared.
    """

    __slots__ = ("mark", "names")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(sorted(set(names)))
        self.mark: str | None = None

    def __repr__(self) -> str:
        return f"Dependencies({len(self.names)} names)"

    @property
    def lane(self) -> Hashable:
        """What callers share a call by, beside its key: those that began in the same
        generations."""
        return self if self.mark is None else self.mark

    def covered_by(self, names: Iterable[str]) -> bool:
        """Whether an answer that depends on *names* depends on all of these."""
        return names == self.names or set(self.names).issubset(names)
