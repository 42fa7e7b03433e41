"""`python -m duet_p4.host_agent --config server1.json`."""

import sys

from duet_p4.host_agent.agent import main

sys.exit(main())
