"""A small binding of libbpf: compile eBPF C, load it, reach its maps, attach it."""

from duet_p4.bpf.attach import Filter, Link, attach_tc, attach_xdp, detach_tc
from duet_p4.bpf.compile import INCLUDE, compile_object
from duet_p4.bpf.errors import BpfError
from duet_p4.bpf.libbpf import possible_cpus
from duet_p4.bpf.objects import (
    ANY,
    EXIST,
    NOEXIST,
    Map,
    Object,
    Program,
    TestRun,
    create_map,
)
from duet_p4.bpf.pins import Pins
from duet_p4.bpf.ring import RingBuffer

__all__ = [
    "ANY",
    "EXIST",
    "INCLUDE",
    "NOEXIST",
    "BpfError",
    "Filter",
    "Link",
    "Map",
    "Object",
    "Pins",
    "Program",
    "RingBuffer",
    "TestRun",
    "attach_tc",
    "attach_xdp",
    "compile_object",
    "create_map",
    "detach_tc",
    "possible_cpus",
]
