"""Where the CPUs' time goes during an experiment: a flame graph of BPF samples and of Python's own.

A BPF program notes at each tick of a CPU's clock whose time it is, and where in the kernel that is, BPF
programs among it (`bpf/samples.bpf.c`). Of what processes do in code of their own, those of the testbed that
are Python sample themselves (`duet_p4/stacks.py`): what the clock counted for them is shared out likewise.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import struct
import tempfile
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from duet_p4 import bpf, stacks
from duet_p4.bpf.libbpf import library
from mininet_topos.experiments import flame

SOURCE = Path(__file__).parent / "bpf" / "samples.bpf.c"
FREQUENCY = 199
"""Samples of a CPU in a second: no divisor of what else happens so often."""

KALLSYMS = Path("/proc/kallsyms")
_PROGRAM = re.compile(rb"^([0-9a-f]+) t (bpf_\S+)\t\[bpf\]$", re.MULTILINE)
LOOK_S = 5.0
"""Between two looks for BPF programs that have come: the kernel's list of names is long, and read whole."""

_SAMPLE = struct.Struct("=16siI")
_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_SOFTWARE, _CPU_CLOCK = 1, 0
_FREQUENCY_BIT = 1 << 10
_CLOSE_ON_EXEC = 1 << 3
_SET_BPF, _ENABLE = 0x40042408, 0x2400
_ATTRIBUTE_SIZE = 112

Stacks = Counter[tuple[str, ...]]


class Clock:
    """Samples of every CPU from its making on until it is closed; needs root."""

    def __init__(self) -> None:
        self._object = bpf.Object(bpf.compile_object(SOURCE)).load()
        self._events: list[int] = []
        self.programs = Programs()
        try:
            program = self._object.program("tick").fd
            for cpu in _online():
                event = _perf_event(cpu)
                self._events.append(event)
                fcntl.ioctl(event, _SET_BPF, program)
                fcntl.ioctl(event, _ENABLE, 0)
        except BaseException:
            self.close()
            raise

    def stacks(self) -> Stacks:
        """Return samples by the kind of process, and the kernel's functions that it was in."""
        symbols = Symbols(KALLSYMS.read_text(), self.programs.seen())
        traces = self._object.map("stacks")
        found: Stacks = Counter()
        for key, value in self._object.map("samples").items():
            name, stack, _ = _SAMPLE.unpack(key)
            process = kind(name.partition(b"\0")[0].decode(errors="replace"))
            data = traces.lookup(struct.pack("=I", stack)) if stack >= 0 else None
            places = [place for (place,) in struct.iter_unpack("=Q", data or b"") if place]
            found[process, *(symbols.name(place) for place in reversed(places))] += int.from_bytes(
                value, "little"
            )
        return found

    def close(self) -> None:
        """End sampling."""
        self.programs.close()
        for event in self._events:
            os.close(event)
        self._events.clear()
        self._object.close()


class Programs:
    """The names of BPF programs, also of those that are gone when somebody asks.

    The kernel names only those that it has: so its list is read whenever a program has come.
    """

    def __init__(self) -> None:
        self.found: dict[int, str] = {}
        """The names of all there were for as long as a look takes to come, by the addresses of their code."""
        self._newest = 0
        self._looks = threading.Lock()
        self._over = threading.Event()
        self._look()
        self._looking = threading.Thread(target=self._keep_looking, name="programs", daemon=True)
        self._looking.start()

    def seen(self) -> dict[int, str]:
        """Return what was found, that of now among it."""
        self._look()
        return self.found

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self._looking.join()

    def _keep_looking(self) -> None:
        while not self._over.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        with self._looks:
            newest = ctypes.c_uint32(self._newest)
            while library().bpf_prog_get_next_id(newest, ctypes.byref(newest)) == 0:
                pass
            if newest.value == self._newest:
                return
            self._newest = newest.value
            listed = _PROGRAM.findall(KALLSYMS.read_bytes())
            self.found |= {int(address, 16): name.decode() for address, name in listed}


class Symbols:
    """The kernel's functions and BPF programs by their addresses."""

    def __init__(self, text: str, programs: Mapping[int, str]) -> None:
        """`text` is the kernel's list, `programs` those that were there before, too."""
        by_address = dict(programs)
        for line in text.splitlines():
            address, what, name, *_ = line.split()
            if what in "tTwW":
                by_address[int(address, 16)] = name
        found = sorted(by_address.items())
        self._places = [address for address, _ in found]
        self._names = [name for _, name in found]

    def name(self, place: int) -> str:
        """Return the function that an address is in; BPF programs by their name in C."""
        at = bisect_right(self._places, place) - 1
        if at < 0:
            return "?"
        # A program has a digest in its name, which functions of the kernel that deal with programs have not.
        short, programs = re.subn(r"^bpf_prog_[0-9a-f]{16}_?", flame.PROGRAM, self._names[at])
        return short if programs else f"{short} [k]"


def kind(name: str) -> str:
    """Return what a process is: its name without numbers."""
    return re.sub(r"\d+", "", name)


def merged(clock: Stacks, own: Mapping[str, Stacks]) -> dict[tuple[str, ...], float]:
    """Return the clock's samples, those of processes' own code shared out as these say."""
    found: dict[tuple[str, ...], float] = {}
    for (process, *functions), samples in clock.items():
        python = own.get(process)
        if functions or not python:
            found[process, *functions] = found.get((process, *functions), 0) + samples
            continue
        for stack, count in python.items():
            found[process, *stack] = found.get((process, *stack), 0) + samples * count / python.total()
    return found


def own_stacks(folder: Path) -> dict[str, Stacks]:
    """Return what processes have sampled of themselves, by kind."""
    found: dict[str, Stacks] = {}
    for path in sorted(folder.iterdir()):
        # As the kernel has it: of a name it knows 15 bytes.
        counts = found.setdefault(kind(path.name.rpartition("-")[0][:15]), Counter())
        for line in path.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            counts[tuple(stack.split(";"))] += int(count)
    return found


@contextmanager
def profiled(target: Path, title: str) -> Iterator[Clock]:
    """Write a flame graph of what all CPUs did during the block, with the testbeds brought up in it."""
    with tempfile.TemporaryDirectory(prefix="duet-stacks-") as folder:
        os.environ[stacks.FOLDER] = folder
        clock = Clock()
        try:
            yield clock
            shown = merged(clock.stacks(), own_stacks(Path(folder)))
        finally:
            clock.close()
            del os.environ[stacks.FOLDER]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(flame.graph(shown, title))


def _online() -> Iterator[int]:
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _perf_event(cpu: int) -> int:
    """Open a clock that ticks while a CPU runs anybody; OSError where the kernel does not let us."""
    attribute = struct.pack(
        "=IIQQQQQ", _SOFTWARE, _ATTRIBUTE_SIZE, _CPU_CLOCK, FREQUENCY, 0, 0, _FREQUENCY_BIT
    )
    buffer = ctypes.create_string_buffer(attribute.ljust(_ATTRIBUTE_SIZE, b"\0"), _ATTRIBUTE_SIZE)
    number = _SYS_PERF_EVENT_OPEN[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(number, buffer, -1, cpu, -1, _CLOSE_ON_EXEC))
    if found < 0:
        raise OSError(ctypes.get_errno(), f"a clock of CPU {cpu}: {os.strerror(ctypes.get_errno())}")
    return found
