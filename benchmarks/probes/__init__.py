"""Correctness as a benchmark: each defect that caches of LLM answers are known for, asked of every
cache, this library's among them."""
