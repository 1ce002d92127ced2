"""``python -m dragonkit``: see :mod:`dragonkit.cli`."""

import sys

from dragonkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
