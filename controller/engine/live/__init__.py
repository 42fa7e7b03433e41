"""The engine in a running network: from inventory, outages, VIPs and measured traffic to placements.

`network` turns an inventory and what is down into a `Topology`, `rows` a VIP's record into what it asks,
`standing` keeps a ledger of what stands where, `planner` answers questions from them, and `api` puts
the planner on REST. The algorithms are in the package above, which knows nothing of these.
"""
