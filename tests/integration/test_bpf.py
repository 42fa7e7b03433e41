"""The libbpf binding, against the kernel."""

import json
import os
import platform
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from duet_p4 import bpf
from duet_p4.bpf import clock, libbpf
from duet_p4.bpf import compile as compiling
from tests.integration.kernels import before_tcx

PROGRAM = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 verdict = 1;
const volatile __u64 unused = 7;
__u32 before[5];
__u32 cells[1000];

struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4);
         __type(key, __u32); __type(value, __u64); } table SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 3);
         __type(key, __u32); __type(value, __u64); } counts SEC(".maps");

SEC("xdp") int count(struct xdp_md *ctx)
{
    __u32 key = 1;
    __u64 *value = bpf_map_lookup_elem(&counts, &key);
    if (value)
        *value += 1;
    value = bpf_map_lookup_elem(&table, &key);
    if (value)
        *value += ctx->data_end - ctx->data;
    cells[999] = cells[0] + before[4] + 1;
    return verdict + (unused == 0);
}

SEC("tc") int pass(struct __sk_buff *skb)
{
    return 0;
}

SEC("tc") int stale(struct __sk_buff *skb)
{
    return 0;
}

char _license[] SEC("license") = "GPL";
"""

CLOCK = """
#include "clock.h"

__u64 ticks, kernels;

SEC("xdp") int tell(struct xdp_md *ctx)
{
    ticks = coarse_ns();
    kernels = bpf_ktime_get_coarse_ns();
    return 0;
}

char _license[] SEC("license") = "GPL";
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root")
pytestmark = [pytest.mark.root, needs_root]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiling, "OBJECTS", tmp_path / "build" / "bpf")
    path = tmp_path / "tiny.c"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def loaded(source: Path) -> Iterator[bpf.Object]:
    with bpf.Object(bpf.compile_object(source)) as opened:
        yield opened.load({"verdict": struct.pack("=I", 3)})


@pytest.fixture
def veth() -> Iterator[str]:
    """A veth pair inside a network namespace of its own, which this process enters."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    _unshare_net()
    try:
        subprocess.run(["ip", "link", "add", "dta", "type", "veth", "peer", "name", "dtb"], check=True)
        for name in ("dta", "dtb"):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield "dta"
    finally:
        _setns(home)
        os.close(home)


def _unshare_net() -> None:
    import ctypes

    assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0


def _setns(fd: int) -> None:
    import ctypes

    assert ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) == 0


def test_an_object_is_compiled_once_per_content(source: Path) -> None:
    first = bpf.compile_object(source)
    stamp = first.stat().st_mtime_ns
    assert bpf.compile_object(source) == first
    assert first.stat().st_mtime_ns == stamp
    assert bpf.compile_object(source, defines={"X": "1"}) != first


def test_what_root_compiles_belongs_to_the_owner_of_the_clone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    os.chown(clone, 4711, 4712)
    monkeypatch.setattr(compiling, "CLONE", clone)
    monkeypatch.setattr(compiling, "OBJECTS", clone / "build" / "bpf")
    bpf.compile_object(source)
    made = [clone / "build", *(clone / "build").rglob("*")]
    assert len(made) == 4, made
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(4711, 4712)}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in made), "others cannot read them"


def test_a_compiler_error_is_told(source: Path) -> None:
    source.write_text("int broken(")
    with pytest.raises(bpf.BpfError, match=r"tiny\.c:1"):
        bpf.compile_object(source)


def test_a_changed_header_recompiles(source: Path, tmp_path: Path) -> None:
    header = tmp_path / "own.h"
    header.write_text("#define A 1\n")
    source.write_text('#include "own.h"\n' + PROGRAM)
    first = bpf.compile_object(source)
    header.write_text("#define A 2\n")
    assert bpf.compile_object(source) != first


def test_maps_hold_what_is_put_in(loaded: bpf.Object) -> None:
    table = loaded.map("table")
    key, value = struct.pack("=I", 9), struct.pack("=Q", 99)
    assert table.lookup(key) is None
    table.update(key, value)
    assert table.lookup(key) == value
    with pytest.raises(FileExistsError, match="table"):
        table.update(key, value, bpf.NOEXIST)
    table.update_batch((struct.pack("=I", n), struct.pack("=Q", n)) for n in (1, 2))
    assert sorted(struct.unpack("=I", k)[0] for k, _ in table.items()) == [1, 2, 9]
    table.delete(key)
    with pytest.raises(FileNotFoundError, match="table"):
        table.delete(key)
    with pytest.raises(ValueError, match="4 bytes, not 2"):
        table.lookup(b"ab")


def test_a_full_map_says_so(loaded: bpf.Object) -> None:
    table = loaded.map("table")
    with pytest.raises(OSError, match="table"):
        for n in range(6):
            table.update(struct.pack("=I", n), bytes(8))


def test_a_test_run_returns_verdict_data_and_time(loaded: bpf.Object) -> None:
    table, key = loaded.map("table"), struct.pack("=I", 1)
    table.update(key, bytes(8))
    run = loaded.program("count").test_run(bytes(60), repeat=10)
    assert (run.retval, run.data_out) == (3, bytes(60))
    assert struct.unpack("=Q", table.lookup(key) or b"") == (600,)
    counts = loaded.map("counts").lookup_percpu(key)
    assert sum(struct.unpack("=Q", value)[0] for value in counts) == 10
    ranged = loaded.map("counts").lookup_range(0, 3)
    assert [sum(struct.unpack("=Q", v)[0] for v in values) for values in ranged] == [0, 10, 0]
    assert loaded.map("counts").lookup_range(1, 1) == ranged[1:2]


def test_global_variables_are_shared_memory(loaded: bpf.Object) -> None:
    cells = loaded.memory("cells").cast("I")
    cells[0] = 41
    loaded.program("count").test_run(bytes(60))
    assert (len(cells), cells[999]) == (1000, 42)
    with pytest.raises(bpf.BpfError, match="no global variable gone"):
        loaded.memory("gone")


def test_ticks_tell_the_time_of_the_monotonic_clock(source: Path) -> None:
    source.write_text(CLOCK)
    with bpf.Object(bpf.compile_object(source)).load(clock.CONSTANTS) as told:
        ticks, kernels = told.memory("ticks").cast("Q"), told.memory("kernels").cast("Q")
        behind = []
        began = time.monotonic()
        while time.monotonic() < began + 0.5:
            told.program("tell").test_run(bytes(60))
            behind.append(kernels[0] - ticks[0])
    assert max(behind) - min(behind) < 50_000_000, f"ticks are {min(behind)} to {max(behind)} ns behind"
    assert -50_000_000 < max(behind) < 2_000_000_000, f"ticks are {max(behind)} ns behind"


def test_the_kernel_and_its_verifiers_log_are_in_the_error(source: Path) -> None:
    source.write_text(PROGRAM.replace("if (value)\n        *value += 1;", "*value += 1;"))
    with (
        bpf.Object(bpf.compile_object(source)) as opened,
        pytest.raises(bpf.BpfError, match="invalid mem access 'map_value_or_null'") as told,
    ):
        opened.load()
    assert str(told.value).startswith(f"Linux {platform.release()} refuses tiny-")


def test_unknown_names_are_told(loaded: bpf.Object, source: Path) -> None:
    with pytest.raises(bpf.BpfError, match="no map nowhere"):
        loaded.map("nowhere")
    with pytest.raises(bpf.BpfError, match="no program nothing"):
        loaded.program("nothing")
    with bpf.Object(bpf.compile_object(source)) as again, pytest.raises(bpf.BpfError, match="nope"):
        again.load({"nope": b"1"})


def test_maps_are_shared_between_objects(loaded: bpf.Object, source: Path) -> None:
    with bpf.Object(bpf.compile_object(source)) as other:
        other.load(share={"table": loaded.map("table")}, programs=["count"])
        loaded.map("table").update(struct.pack("=I", 3), struct.pack("=Q", 4))
        assert other.map("table").lookup(struct.pack("=I", 3)) == struct.pack("=Q", 4)


def test_links_attach_and_detach(loaded: bpf.Object, veth: str) -> None:
    ifindex = socket.if_nametoindex(veth)
    with bpf.attach_xdp(loaded.program("count"), ifindex):
        shown = subprocess.run(["ip", "link", "show", veth], capture_output=True, text=True, check=True)
        assert "prog/xdp" in shown.stdout
        with pytest.raises(bpf.BpfError, match="another program"):
            bpf.attach_xdp(loaded.program("count"), ifindex)
        with bpf.attach_tc(loaded.program("pass"), ifindex, "ingress") as attached:
            assert isinstance(attached, bpf.Link), "this kernel has no TCX"
    shown = subprocess.run(["ip", "link", "show", veth], capture_output=True, text=True, check=True)
    assert "prog/xdp" not in shown.stdout


def filters(interface: str) -> list[str]:
    """Return the names of the programs that classify what an interface receives."""
    command = ["tc", "-json", "filter", "show", "dev", interface, "ingress"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = (row.get("options", {}).get("bpf_name") for row in json.loads(shown))
    return [name.split(":")[0] for name in names if name]


@pytest.fixture
def no_tcx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "bpf_call", before_tcx)


class TestAKernelWithoutTcx:
    pytestmark = pytest.mark.usefixtures("no_tcx")

    def test_a_filter_takes_its_place_and_is_detached(self, loaded: bpf.Object, veth: str) -> None:
        ifindex = socket.if_nametoindex(veth)
        with bpf.attach_tc(loaded.program("pass"), ifindex, "ingress"):
            assert filters(veth) == ["pass"]
        assert filters(veth) == []

    def test_it_is_detached_from_another_namespace(self, loaded: bpf.Object, veth: str) -> None:
        theirs = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        attached = bpf.attach_tc(loaded.program("pass"), socket.if_nametoindex(veth), "ingress")
        _unshare_net()
        attached.close()
        _setns(theirs)
        os.close(theirs)
        assert filters(veth) == []

    def test_what_kill_9_leaves_is_replaced(self, loaded: bpf.Object, veth: str) -> None:
        ifindex = socket.if_nametoindex(veth)
        child = os.fork()
        if not child:
            bpf.attach_tc(loaded.program("stale"), ifindex, "ingress")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert filters(veth) == ["stale"]
        with bpf.attach_tc(loaded.program("pass"), ifindex, "ingress"):
            assert filters(veth) == ["pass"]
        assert filters(veth) == []

    def test_a_successor_is_left_alone(self, loaded: bpf.Object, veth: str) -> None:
        ifindex = socket.if_nametoindex(veth)
        first = bpf.attach_tc(loaded.program("stale"), ifindex, "ingress")
        with bpf.attach_tc(loaded.program("pass"), ifindex, "ingress"):
            first.close()
            assert filters(veth) == ["pass"]

    def test_an_interface_that_is_gone_is_told(self, loaded: bpf.Object, veth: str) -> None:
        with pytest.raises(bpf.BpfError, match=r"cannot attach pass \(tc ingress\) to interface 9999"):
            bpf.attach_tc(loaded.program("pass"), 9999, "ingress")
        attached = bpf.attach_tc(loaded.program("pass"), socket.if_nametoindex(veth), "ingress")
        subprocess.run(["ip", "link", "del", veth], check=True)
        attached.close()
