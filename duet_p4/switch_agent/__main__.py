"""`python -m duet_p4.switch_agent --config switch.json`."""

from duet_p4.switch_agent.agent import main

if __name__ == "__main__":
    raise SystemExit(main())
