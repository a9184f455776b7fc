"""`python3 -m netpold`: the daemon."""

import sys

from netpold.daemon.main import main

sys.exit(main())
