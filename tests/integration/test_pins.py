"""Maps and links that outlive the process that made them."""

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from duet_p4 import bpf
from duet_p4.bpf import compile as compiling
from duet_p4.bpf import pins
from duet_p4.host_agent.datapath import HostDatapath
from duet_p4.smux.xdp import XdpDatapath
from tests.integration.netns import inside, link, namespaces

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root")]

PROGRAM = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 64);
         __type(key, __u32); __type(value, VALUE); } learned SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 3);
         __type(key, __u32); __type(value, __u64); } counts SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 64);
         __type(key, __u32); __type(value, __u32); } table SEC(".maps");

SEC("xdp") int NAME(struct xdp_md *ctx)
{
    __u32 key = 1;
    VALUE *value = bpf_map_lookup_elem(&learned, &key);
    __u64 *count = bpf_map_lookup_elem(&counts, &key);

    if (value)
        *value += 1;
    if (count)
        *count += 1;
    return bpf_map_lookup_elem(&table, &key) ? XDP_PASS : XDP_DROP;
}

SEC("tc") int out(struct __sk_buff *skb)
{
    return -1;
}

char _license[] SEC("license") = "GPL";
"""
STATE = ("learned", "counts")


def key(number: int) -> bytes:
    return struct.pack("=I", number)


class DataPath:
    """A data path as an agent has it: loaded with what is pinned, attached, let go of."""

    def __init__(
        self, folder: Path, name: str = "first", value: str = "__u64", layout: int = 1, entries: int = 64
    ) -> None:
        self.pins = bpf.Pins(folder / "pins", layout)
        source = folder / "tiny.c"
        source.write_text(PROGRAM)
        self.object = bpf.Object(bpf.compile_object(source, defines={"NAME": name, "VALUE": value}))
        self.pins.load(self.object, STATE, max_entries={"learned": entries})
        self.program = self.object.program(name)
        self.learned = self.object.map("learned")
        self.links: list[bpf.Link | bpf.Filter] = []

    def attach(self, interface: str) -> None:
        ifindex = socket.if_nametoindex(interface)
        self.links += [
            self.pins.attach_xdp(self.program, ifindex),
            self.pins.attach_tc(self.object.program("out"), ifindex, "egress"),
        ]
        self.pins.settle(self.links)

    def close(self) -> None:
        """Let go of everything, as the end of a process does."""
        for link_ in self.links:
            link_.close()
        self.object.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(compiling, "OBJECTS", tmp_path / "build" / "bpf")
    yield tmp_path
    pins.remove(tmp_path / "pins")


@pytest.fixture
def veth() -> Iterator[str]:
    with namespaces("pa", "pb") as (one, other):
        link(one, "eth1", other, "eth1")
        with inside(one):
            yield "eth1"


def program_id(interface: str) -> int:
    shown = subprocess.run(["ip", "link", "show", interface], capture_output=True, text=True, check=True)
    words = shown.stdout.split("prog/xdp id ")
    return int(words[1].split()[0]) if len(words) > 1 else 0


def test_a_data_path_outlives_its_process_and_is_taken_over(folder: Path, veth: str) -> None:
    first = DataPath(folder)
    first.attach(veth)
    first.learned.update(key(7), struct.pack("=Q", 70))
    old = program_id(veth)
    first.close()
    assert program_id(veth) == old != 0, "the program stays where it is"

    second = DataPath(folder, "second")
    assert second.learned.lookup(key(7)) == struct.pack("=Q", 70)
    assert program_id(veth) == old, "the predecessor's forwards until the successor is ready"
    second.attach(veth)
    assert program_id(veth) not in (0, old)
    second.close()
    pins.remove(folder / "pins")
    assert program_id(veth) == 0
    assert not os.path.ismount(folder / "pins")


def test_entries_of_another_form_are_left_behind(folder: Path, veth: str) -> None:
    first = DataPath(folder)
    first.attach(veth)
    first.learned.update(key(7), struct.pack("=Q", 70))
    first.close()
    second = DataPath(folder, value="__u32")
    assert list(second.learned.keys()) == []
    second.attach(veth)
    second.close()
    third = DataPath(folder, value="__u32", layout=2)
    assert list(third.learned.keys()) == [], "another layout, other maps"
    assert (folder / "pins/maps-1").exists(), "the predecessor's are there until it is relieved"
    third.attach(veth)
    assert not (folder / "pins/maps-1").exists()
    third.close()


def test_a_map_of_another_size_takes_its_entries_along(folder: Path, veth: str) -> None:
    first = DataPath(folder)
    first.attach(veth)
    first.learned.update(key(7), struct.pack("=Q", 70))
    first.object.map("counts").update_percpu(key(1), [struct.pack("=Q", 5)] * first.object.map("counts").cpus)
    second = DataPath(folder, entries=128)
    assert second.learned.max_entries == 128
    assert second.learned.lookup(key(7)) == struct.pack("=Q", 70)
    first.learned.update(key(8), struct.pack("=Q", 80))
    second.attach(veth)
    assert second.learned.lookup(key(8)) == struct.pack("=Q", 80), "learned meanwhile"
    assert second.object.map("counts").lookup_percpu(key(1))[0] == struct.pack("=Q", 5)
    first.close()
    second.close()


def test_an_interface_that_was_made_anew_is_attached_to_again(folder: Path) -> None:
    with namespaces("pa", "pb") as (one, other), inside(one):
        link(one, "eth1", other, "eth1")
        first = DataPath(folder)
        first.attach("eth1")
        assert first.links[0].ifindex == socket.if_nametoindex("eth1")
        subprocess.run(["ip", "link", "del", "eth1"], check=True)
        assert first.links[0].ifindex == 0, "the agent can see that it serves nothing any more"
        first.close()
        link(one, "eth1", other, "eth1")
        second = DataPath(folder)
        second.attach("eth1")
        assert program_id("eth1")
        assert len(list((folder / "pins/links").iterdir())) == 2, "what is dead is forgotten"
        second.close()


def test_data_paths_say_on_which_interface_they_are_missing() -> None:
    host, mux = HostDatapath(flows=64, snat_connections=64), XdpDatapath(IPv4Address("172.30.0.1"), ())
    with namespaces("pa", "pb") as (one, other), inside(one):
        for name in ("eth1", "eth2"):
            link(one, name, other, name)
        host.attach([socket.if_nametoindex("eth1")])
        mux.attach([socket.if_nametoindex("eth2")])
        assert host.serves("eth1") and mux.forwards("eth2")
        for name in ("eth1", "eth2"):
            subprocess.run(["ip", "link", "del", name], check=True)
        assert not host.serves("eth1") and not mux.forwards("eth2")
        for name in ("eth1", "eth2"):
            link(one, name, other, name)
        assert not host.serves("eth1") and not mux.forwards("eth2"), "those are others of the same name"
    host.close()
    mux.close()


def test_hashes_are_read_and_emptied_in_batches(folder: Path) -> None:
    made = bpf.create_map(1, "many", 4, 8, 20_000)
    made.update_batch((key(number), struct.pack("=Q", number)) for number in range(10_000))
    found = made.entries()
    assert sorted(found) == sorted((key(n), struct.pack("=Q", n)) for n in range(10_000))
    made.delete(key(5))
    made.delete_batch(key(number) for number in range(9_990))
    assert len(made.entries()) == 10
    made.close()
