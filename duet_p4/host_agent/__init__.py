"""The host agent: what a server needs so that its DIPs can serve VIPs.

- `bpf/`: decapsulation and VIP -> DIP on the way in, DIP -> VIP and SNAT on the way out, in C
- `model`: a VIP as a server holds it
- `datapath`: the tables of `bpf/`, filled from the model
- `health`: checks of the DIPs' services
- `agent`, `config`: one process per server, with a REST interface
"""
