"""The paths of agents: `mux` for switch agents and SMux agents, `host` for host agents."""
