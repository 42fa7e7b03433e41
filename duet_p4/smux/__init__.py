"""The SMux: the software mux that backs up every HMux and carries what does not fit there.

- `bpf/`: the XDP data path in C
- `datapath`: what a data path is, for the agent
- `xdp`: the XDP data path's tables
- `scapy_datapath`: the same data path in Scapy, to be read and stepped through
- `service`, `agent`, `config`: one process per SMux, REST in front and BIRD beside it; `raw_port` feeds Scapy
"""
