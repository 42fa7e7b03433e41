"""What goes over the wire between the controller and the agents: models and service protocols only.

- `problems`: the one shape of every error, and the exceptions that carry it
- `service`: how a service says whether it does its work
- `mux`, `host`: what switch agents and SMux agents, and what host agents, hold and answer
- `changes`: many changes in one request, and what came of each
- `digest`, `term`: how two sides compare what they hold, and whose writes count
- `health`: what is known of the health of DIPs; `ports`: what switches know of the ports to hosts
"""
