"""``python -m examples.demo``."""

import sys

from examples.demo.app import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
