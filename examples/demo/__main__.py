"""``python -m llm_cache_mem.demo``."""

import sys

from llm_cache_mem.demo.app import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
