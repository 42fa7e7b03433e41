"""`python -m duet_p4.smux --config smux1.json`."""

import sys

from duet_p4.smux.agent import main

sys.exit(main())
