"""`python3 -m netpold.ctl`: netpoldctl."""

import sys

from netpold.ctl.main import main

sys.exit(main())
