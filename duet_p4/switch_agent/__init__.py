"""The switch agent: a small network operating system over one P4 switch.

- `agent`: the process, from its configuration to REST
- `service`: VIPs and TIPs, all or nothing, with announcements in the right order
- `p4client`: the P4Runtime session with the switch
- `hostif`: a TAP for every front-panel port
- `fib`: the mirror of the kernel's routes and neighbours in the switch's underlay tables
- `announcer`: the kernel table that BIRD announces from
"""
