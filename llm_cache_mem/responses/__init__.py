"""What an answer says about itself: whether it is complete, and what it used."""

__all__: list[str] = []
