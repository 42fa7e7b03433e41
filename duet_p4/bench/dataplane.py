"""How fast the HMux forwards, against the floor and against BMv2, and how fast tables are written.

What a packet costs a program is measured by itself (`packets.py`): over veths, generating a packet and
handing it on takes many times as long as any of the programs, so that a rate tells little about them.

Floor and xdp forward in the context of the sender, on one CPU, so the highest rate without loss is the
rate of a sender that runs flat out; what is given is packets per second of CPU, which other processes
on the machine do not change. BMv2 forwards on threads of its own and collapses when flooded: its rate is
the highest paced one with a loss below `MAX_LOSS`, found by bisection.

Runs of the subjects alternate, and every figure is a median, so that a disturbance hits all alike.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duet_p4 import bmv2
from duet_p4.bench import live
from duet_p4.bench.floor import floor as floor_on
from duet_p4.bench.line import BenchError, Line
from duet_p4.bench.packets import Measured, measure
from duet_p4.bench.switches import Switch, available, inserts
from duet_p4.bench.tables import Fill
from duet_p4.bench.traffic import Generator, Sent
from duet_p4.bench.writes import Programming, program

MAX_LOSS = 0.001
KEPT_PACE = 0.95
"""A generator that falls short of its pace by more has been disturbed: the run does not count."""
TRIES = 2
SIZES = (64, 512, 1500)
"""Frame lengths in bytes, without FCS."""
FILLS = ("one", "full")
FLAT_OUT_PPS = 400_000
"""About what one CPU does: a run flat out has this many packets for each second it should take."""
LOWEST_PPS = 2000.0
HIGHEST_PPS = 400_000.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    sizes: tuple[int, ...] = SIZES
    runs: int = 7
    seconds: float = 1.0
    steps: int = 7
    vip_runs: int = 200
    quickly: bool = False
    """Whether the cost of a packet is measured in few runs, of one VIP."""

    @classmethod
    def quick(cls) -> Plan:
        """Enough to see that it works: 64 bytes, a few short runs."""
        return cls(sizes=(64,), runs=3, seconds=0.5, steps=5, vip_runs=50, quickly=True)


@dataclass(slots=True)
class Rate:
    """What one subject forwards at one frame size with one fill of its tables."""

    subject: str
    fill: str
    size: int
    pps: float
    loss: float
    runs: list[Sent] = field(default_factory=list)

    @property
    def clock_pps(self) -> float:
        """Packets per second by the clock, the median of the runs."""
        return statistics.median(run.pps for run in self.runs)

    @property
    def ns_per_packet(self) -> float:
        """The whole cost of a packet: generating, forwarding, receiving."""
        return 1e9 / self.pps


@dataclass(frozen=True, slots=True)
class Pacer:
    """Looks for the highest pace without loss, by runs of so many seconds and so many bisections."""

    seconds: float
    steps: int

    def highest(self, generator: Generator, low: float, high: float = HIGHEST_PPS) -> Sent:
        """Return the run at the highest pace that lost less than `MAX_LOSS`.

        Doubles from `low` until packets are lost, then bisects; a pace counts as lossy only if every one
        of `TRIES` runs loses.
        """
        best: Sent | None = None
        rate = low
        while rate <= high:
            sent = self._lossless(generator, rate)
            if sent is None:
                break
            best, rate = sent, rate * 2
        if best is None:
            raise BenchError(f"even {rate:.0f} packets per second are not forwarded without loss")
        good, bad = rate / 2, min(rate, high)
        for _ in range(self.steps):
            middle = (good + bad) / 2
            sent = self._lossless(generator, middle)
            if sent is None:
                bad = middle
            else:
                best, good = sent, middle
        return best

    def _lossless(self, generator: Generator, rate: float) -> Sent | None:
        for _ in range(TRIES):
            sent = generator.paced(rate, self.seconds)
            if sent.loss < MAX_LOSS and sent.pps > KEPT_PACE * rate:
                return sent
        return None


class Bench:
    """One benchmark and what it has found so far; `progress` is told what it does."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self._pacer = Pacer(plan.seconds, plan.steps)
        self._progress = progress
        self.rates: list[Rate] = []
        self.programming: list[Programming] = []
        self.packets: list[Measured] = []
        self.live: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """Measure everything and return the result; what it made is gone when it returns or fails."""
        self.run_packets()
        self.run_live()
        self.run_xdp()
        if available("bmv2"):
            self.run_bmv2()
        else:
            self._progress(f"bmv2: {bmv2.MISSING}, left out")
        return self.summary()

    def run_packets(self) -> None:
        """Measure what one packet costs the floor, xdp and the SMux."""
        self.packets = measure(self._progress, quick=self._plan.quickly)

    def run_live(self) -> None:
        """Measure packets per second of the kernel's own generator."""
        self.live = live.measure(self._progress, quick=self._plan.quickly)

    def run_writes(self) -> dict[str, Any]:
        """Measure nothing but how fast tables are written."""
        for target in ("xdp", "bmv2"):
            if not available(target):
                self._progress(f"{target}: {bmv2.MISSING}, left out")
                continue
            with _workshop() as (stack, folder):
                line = stack.enter_context(Line())
                switch = stack.enter_context(Switch(target, line, folder))
                self.programming.append(self._program(target, switch))
        return self.summary()

    def run_xdp(self) -> None:
        """Measure the floor and xdp."""
        with _workshop() as (stack, folder):
            self._measure_xdp(stack, folder)

    def run_bmv2(self) -> None:
        """Measure BMv2."""
        with _workshop() as (stack, folder):
            self._measure_bmv2(stack, folder)

    def summary(self) -> dict[str, Any]:
        """Return the figures by the names that `duet bench dataplane --json` has for them."""
        floor_rate, one, full = (
            self._rate(*key) for key in (("floor", "one"), ("xdp", "one"), ("xdp", "full"))
        )
        bmv2 = self._rate("bmv2", "one")
        xdp_control, bmv2_control = self._control("xdp"), self._control("bmv2")
        vip, every = self._packet("xdp", "one", "VIP"), self._packet("xdp", "full", "every VIP in turn")
        floor, known = self._packet("floor", "-", "VIP"), self._packet("smux", "1 VIPs", "known flow")
        hand = self._packet("by hand", "one", "VIP")
        return {
            "floor_pps": floor_rate and floor_rate.pps,
            "xdp_pps": one and one.pps,
            "bmv2_pps": bmv2 and bmv2.pps,
            "xdp_over_floor": _ratio(one, floor_rate),
            # Both by the clock: BMv2 has no figure per second of CPU.
            "xdp_over_bmv2": one.clock_pps / bmv2.clock_pps if one and bmv2 else None,
            "full_over_one": _ratio(full, one),
            "xdp_ns_per_packet": vip and vip.ns,
            "loss": max((rate.loss for rate in self.rates), default=None),
            "machine_share": self.machine_share(),
            "floor_ns_per_packet": floor and floor.ns,
            "hand_ns_per_packet": hand and hand.ns,
            "xdp_full_ns_per_packet": every and every.ns,
            "smux_ns_per_packet": known and known.ns,
            "xdp_instructions": vip and vip.instructions,
            "hand_instructions": hand and hand.instructions,
            "live_floor_pps": self.live.get("floor"),
            "live_xdp_pps": self.live.get("xdp"),
            "live_smux_pps": self.live.get("smux"),
            "writes_per_s": xdp_control and xdp_control.vips_per_s,
            "write_ms_median": xdp_control and xdp_control.vip_ms_median,
            "bmv2_writes_per_s": bmv2_control and bmv2_control.vips_per_s,
            "bmv2_write_ms_median": bmv2_control and bmv2_control.vip_ms_median,
            "writes": [
                {
                    "target": one.target,
                    "per_s": one.per_s,
                    "vip_ms": one.vip_ms_median,
                    "swap_ms": one.swap_ms,
                    "bytes_per_entry": one.bytes_per_entry,
                }
                for one in self.programming
            ],
            "packets": [
                {
                    "subject": one.subject,
                    "tables": one.tables,
                    "packets": one.packets,
                    "ns": one.ns,
                    "instructions": one.instructions,
                }
                for one in self.packets
            ],
            "rates": [
                {
                    "subject": rate.subject,
                    "fill": rate.fill,
                    "size": rate.size,
                    "pps": rate.pps,
                    "ns_per_packet": rate.ns_per_packet,
                    "loss": rate.loss,
                    "runs": [sent.cpu_pps for sent in rate.runs],
                    "runs_wall": [sent.pps for sent in rate.runs],
                }
                for rate in self.rates
            ],
        }

    def machine_share(self) -> float | None:
        """Return the share of a CPU that a run flat out got, the median; BMv2's rates suffer below 1."""
        shares = [run.pps / run.cpu_pps for rate in self.rates if rate.subject != "bmv2" for run in rate.runs]
        return min(1.0, statistics.median(shares)) if shares else None

    def _rate(self, subject: str, fill: str, size: int = 64) -> Rate | None:
        found = (r for r in self.rates if (r.subject, r.fill, r.size) == (subject, fill, size))
        return next(found, None)

    def _packet(self, subject: str, tables: str, packets: str) -> Measured | None:
        found = (m for m in self.packets if (m.subject, m.tables, m.packets) == (subject, tables, packets))
        return next(found, None)

    def _control(self, target: str) -> Programming | None:
        return next((p for p in self.programming if p.target == target), None)

    def _measure_xdp(self, stack: ExitStack, folder: Path) -> None:
        fills = {"floor": Fill.full(), "xdp one": Fill.one(), "xdp full": Fill.full()}
        lines = {name: stack.enter_context(Line()) for name in fills}
        stack.enter_context(floor_on(lines["floor"]))
        self._progress("xdp: compiles and starts two switches")
        one = stack.enter_context(Switch("xdp", lines["xdp one"], folder))
        fill_tables(one, Fill.one())
        full = stack.enter_context(Switch("xdp", lines["xdp full"], folder))
        self.programming.append(self._program("xdp", full))
        for size in self._plan.sizes:
            generators = {
                name: Generator(lines[name], folder, fill.addresses(), size) for name, fill in fills.items()
            }
            runs: dict[str, list[Sent]] = {name: [] for name in fills}
            packets = round(FLAT_OUT_PPS * self._plan.seconds)
            for number in range(self._plan.runs):
                for name, generator in generators.items():
                    self._progress(f"{name}: {size} bytes, run {number + 1} of {self._plan.runs}")
                    runs[name].append(generator.flat_out(packets))
            for name, sent in runs.items():
                self._keep(name, size, sent, generators[name])

    def _keep(self, name: str, size: int, sent: list[Sent], generator: Generator) -> None:
        """Note the median of flat-out runs; where they lost packets, the highest paced rate without."""
        subject, _, fill = name.partition(" ")
        pps = statistics.median(run.cpu_pps for run in sent)
        loss = statistics.median(run.loss for run in sent)
        if loss >= MAX_LOSS:
            self._progress(f"{name}: {size} bytes, loses {loss:.2%} flat out: looks for a pace")
            found = self._pacer.highest(generator, LOWEST_PPS, pps)
            pps, loss = found.pps, found.loss
        self.rates.append(Rate(subject, fill or "one", size, pps, loss, sent))

    def _program(self, target: str, switch: Switch) -> Programming:
        self._progress(f"{target}: writes tables")
        return program(target, switch, self._plan.vip_runs)

    def _measure_bmv2(self, stack: ExitStack, folder: Path) -> None:
        line = stack.enter_context(Line())
        switch = stack.enter_context(Switch("bmv2", line, folder))
        self.programming.append(self._program("bmv2", switch))
        # Full first: the tables were filled to time it.
        for name in reversed(FILLS):
            fill: Fill = getattr(Fill, name)()
            if name == "one":
                switch.push()
                fill_tables(switch, fill)
            for size in self._plan.sizes:
                generator = Generator(line, folder, fill.addresses(), size)
                self._progress(f"bmv2 {name}: {size} bytes, looks for the highest pace without loss")
                try:
                    # BMv2 changes to a new pipeline when packets come, and loses some then.
                    generator.paced(LOWEST_PPS, self._plan.seconds)
                    found = self._pacer.highest(generator, LOWEST_PPS)
                except BenchError as error:
                    self._progress(f"bmv2 {name}: {size} bytes, no rate: {error}")
                    continue
                self.rates.append(Rate("bmv2", name, size, found.pps, found.loss, [found]))


@contextmanager
def _workshop() -> Iterator[tuple[ExitStack, Path]]:
    """Offer a stack for what is to be undone, and a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="duet-bench-") as folder, ExitStack() as stack:
        yield stack, Path(folder)


def fill_tables(switch: Switch, fill: Fill) -> None:
    """Write everything that a fill says."""
    switch.write(inserts(fill.everything()))


def _ratio(above: Rate | None, below: Rate | None) -> float | None:
    """Return the median ratio of runs that were made side by side."""
    if above is None or below is None:
        return None
    pairs = zip(above.runs, below.runs, strict=True)
    return statistics.median(a.cpu_pps / b.cpu_pps for a, b in pairs)
