"""`python3 -m netpold`: the daemon."""

import sys

from netpold.daemon.main import main

if __name__ == "__main__":
    sys.exit(main())
