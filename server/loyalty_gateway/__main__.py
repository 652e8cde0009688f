"""The command `loyalty`; nothing is loaded before it is known what was asked."""

import sys

from loyalty_gateway.cli import main

if __name__ == "__main__":
    sys.exit(main())
