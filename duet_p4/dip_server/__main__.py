"""`python -m duet_p4.dip_server 100.1.1.1 --http 80 --udp 7`."""

import sys

from duet_p4.dip_server.server import main

sys.exit(main())
