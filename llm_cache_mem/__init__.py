"""The exact-match cache in front of every LLM call."""
