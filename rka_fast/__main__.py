"""`python -m rka_fast COMMAND ...` is `rka-fast COMMAND ...`."""

import sys

from rka_fast.commands import main

if __name__ == "__main__":
    sys.exit(main())
