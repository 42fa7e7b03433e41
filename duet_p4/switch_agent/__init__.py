"""The switch agent: a small network operating system over one P4 switch.

- `agent`: the process, from its configuration to REST
- `service`: VIPs and TIPs, all or nothing, with announcements in the right order
- `p4session`: a P4Runtime session, whatever the program
- `p4client`: the session with a switch of hmux.p4, in rows
- `hostif`: a host interface for every front-panel port
- `netlink`: the kernel's messages on routes, neighbours and links, decoded
- `kernel`: what they say of the front-panel ports
- `fib`: the mirror of the kernel's routes and neighbours in the switch's underlay tables
- `announcer`: the kernel table that BIRD announces from
"""
