"""The file format of a real trace, so that it can take the place of the synthetic one.

Text, one record per line, fields separated by blanks; `#` starts a comment:

    duet-trace 1
    intervals 18 600
    vip 10.0.0.1 sources tor1.1:0.5,tor3.2:0.2,internet:0.3 dips tor1.4:2,tor2.1:1
    rate 0 10.0.0.1 1.5e9 180000

- `intervals COUNT SECONDS` comes once, before the rates;
- `vip NAME sources SWITCH:SHARE,... dips TOR:COUNT,...`: shares sum to 1, switches are named as in
  `Topology.fat_tree` (torK.T counts containers and ToRs from 1), `internet` enters at the Cores;
- `rate INTERVAL NAME BITS_PER_S PACKETS_PER_S`: intervals count from 0, rates not stated are 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from controller.engine import INTERNET, Topology
from controller.simulation.workload import Trace, columns

_HEADER = ["duet-trace", "1"]

FULL_PACKET_BITS = 12_000.0
"""A packet of 1,500 bytes: what a VIP is taken to send whose packets per second are not stated."""


class TraceError(ValueError):
    """A trace file that cannot be read; the text names the file and the line."""


def read(path: Path, topology: Topology) -> Trace:
    """Read a trace for this FatTree. Raises TraceError naming the file, the line and what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: {error}") from error
    return _Reader(str(path), topology).read(text.splitlines())


def write(path: Path, trace: Trace, topology: Topology) -> None:
    """Write a trace in this format; shares and rates keep their precision."""
    demands = trace.demands
    lines = [" ".join(_HEADER), f"intervals {len(trace.rates)} 600"]
    owners = demands.owners()[np.repeat(np.arange(demands.row_count), np.diff(demands.dip_start))]
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(demands.vip_count + 1))
    for vip in range(demands.vip_count):
        at = slice(demands.source_start[vip], demands.source_start[vip + 1])
        sources = [
            f"{topology.names[s]}:{share!r}"
            for s, share in zip(
                demands.source_switch[at].tolist(), demands.source_share[at].tolist(), strict=True
            )
        ]
        if demands.internet[vip]:
            sources.append(f"{INTERNET}:{float(demands.internet[vip])!r}")
        counts: dict[str, int] = {}
        for i in order[ends[vip] : ends[vip + 1]].tolist():
            name = topology.names[demands.dip_switch[i]]
            counts[name] = counts.get(name, 0) + round(float(demands.dip_share[i]) * int(trace.dips[vip]))
        dips = ",".join(f"{name}:{count}" for name, count in counts.items())
        lines.append(f"vip {demands.names[vip]} sources {','.join(sources)} dips {dips}")
    for interval, (bits, packets) in enumerate(
        zip(trace.rates.tolist(), (trace.rates / trace.packet_bits).tolist(), strict=True)
    ):
        lines += [
            f"rate {interval} {demands.names[vip]} {rate!r} {packet!r}"
            for vip, (rate, packet) in enumerate(zip(bits, packets, strict=True))
            if rate
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class _Reader:
    def __init__(self, name: str, topology: Topology) -> None:
        self.name, self.topology = name, topology
        self.line = 0
        self.names: dict[str, int] = {}
        self.sources: list[dict[int, float]] = []
        self.internet: list[float] = []
        self.dips: list[dict[int, int]] = []
        self.intervals = 0
        self.rates = np.zeros((0, 0))
        self.stated: dict[tuple[int, int], tuple[float, float]] = {}

    def read(self, lines: Iterable[str]) -> Trace:
        header = False
        for self.line, text in enumerate(lines, 1):
            fields = text.split("#", 1)[0].split()
            if not fields:
                continue
            if not header:
                if fields != _HEADER:
                    raise self._error(f"the first line must be {' '.join(_HEADER)!r}, not {text.strip()!r}")
                header = True
            elif fields[0] == "intervals":
                self._intervals(fields)
            elif fields[0] == "vip":
                self._vip(fields)
            elif fields[0] == "rate":
                self._rate(fields)
            else:
                raise self._error(f"unknown record {fields[0]!r}; known are intervals, vip and rate")
        if not header:
            raise TraceError(f"{self.name}: the file is empty")
        if not self.intervals:
            raise TraceError(f"{self.name}: no 'intervals' record")
        if not self.names:
            raise TraceError(f"{self.name}: no 'vip' record")
        return self._trace()

    def _intervals(self, fields: list[str]) -> None:
        if self.intervals:
            raise self._error("'intervals' is stated twice")
        self._length(fields, 3, "intervals COUNT SECONDS")
        self.intervals = self._whole(fields[1], "the number of intervals", 1)
        self._number(fields[2], "the length of an interval")

    def _vip(self, fields: list[str]) -> None:
        usage = "vip NAME sources SWITCH:SHARE,... dips TOR:COUNT,..."
        if fields[2:3] == ["sources"] and (len(fields) == 4 or fields[4:] == ["dips"]):
            raise self._error(f"VIP {fields[1]} has no DIPs")
        self._length(fields, 6, usage)
        if fields[2] != "sources" or fields[4] != "dips":
            raise self._error(f"expected {usage!r}")
        name = fields[1]
        if name in self.names:
            raise self._error(f"VIP {name} is stated twice")
        sources: dict[int, float] = {}
        internet = 0.0
        for switch, value in self._pairs(fields[3]):
            share = self._number(value, f"the share of source {switch}")
            if switch == INTERNET:
                internet += share
            else:
                sources[self._tor(switch)] = sources.get(self._tor(switch), 0.0) + share
        total = math.fsum([*sources.values(), internet])
        if abs(total - 1) > 1e-6:
            raise self._error(f"VIP {name}: the shares of its sources sum to {total:g}, not 1")
        dips: dict[int, int] = {}
        for switch, value in self._pairs(fields[5]):
            dips[self._tor(switch)] = dips.get(self._tor(switch), 0) + self._whole(
                value, f"DIPs on {switch}", 0
            )
        if not sum(dips.values()):
            raise self._error(f"VIP {name} has no DIPs")
        self.names[name] = len(self.names)
        self.sources.append(sources)
        self.internet.append(internet)
        self.dips.append({tor: count for tor, count in dips.items() if count})

    def _rate(self, fields: list[str]) -> None:
        self._length(fields, 5, "rate INTERVAL NAME BITS_PER_S PACKETS_PER_S")
        if not self.intervals:
            raise self._error("a rate before 'intervals'")
        interval = self._whole(fields[1], "the interval", 0)
        if interval >= self.intervals:
            raise self._error(f"interval {interval} of {self.intervals} (they count from 0)")
        if fields[2] not in self.names:
            raise self._error(f"no VIP {fields[2]!r} is stated before its rate")
        key = (interval, self.names[fields[2]])
        if key in self.stated:
            raise self._error(f"VIP {fields[2]} has two rates in interval {interval}")
        self.stated[key] = (
            self._number(fields[3], f"the traffic of VIP {fields[2]}"),
            self._number(fields[4], f"the packets of VIP {fields[2]}"),
        )

    def _trace(self) -> Trace:
        vips = len(self.names)
        rates, packets = np.zeros((self.intervals, vips)), np.zeros((self.intervals, vips))
        for (interval, vip), (bits, count) in self.stated.items():
            rates[interval, vip], packets[interval, vip] = bits, count

        def csr(
            rows: list[dict[int, float]] | list[dict[int, int]],
        ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            start = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
            switches = np.array([switch for row in rows for switch in row], np.int32)
            return start, switches, np.array([value for row in rows for value in row.values()])

        start, switches, shares = csr(self.sources)
        dip_start, dip_switches, counts = csr(self.dips)
        demands = columns(
            list(self.names),
            rates.mean(axis=0),
            np.array(self.internet),
            (start, switches, shares.astype(np.float64)),
            (dip_start, dip_switches, counts.astype(np.int64)),
            int(self.topology.tables[:, 2].max()),
        )
        return Trace(
            demands=demands,
            rates=rates,
            typical=rates.mean(axis=0),
            packet_bits=_per_packet(rates.sum(axis=0), packets.sum(axis=0)),
            dips=np.array([sum(row.values()) for row in self.dips], np.int64),
        )

    def _pairs(self, field: str) -> list[tuple[str, str]]:
        pairs = []
        for item in field.split(","):
            switch, colon, value = item.rpartition(":")
            if not colon or not switch:
                raise self._error(f"{item!r} is not of the form NAME:VALUE")
            pairs.append((switch, value))
        return pairs

    def _tor(self, name: str) -> int:
        switch = self.topology.index.get(name)
        shape = self.topology.shape
        if switch is None or shape is None or switch >= shape.tor_count:
            raise self._error(f"{name!r} is no ToR of the topology")
        return switch

    def _number(self, text: str, what: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise self._error(f"{what} is {text!r}, not a number") from None
        if not math.isfinite(value) or value < 0:
            raise self._error(f"{what} is {text}, which is negative or not finite")
        return value

    def _whole(self, text: str, what: str, least: int) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise self._error(f"{what}: {text!r} is not a whole number of at least {least}")
        return int(text)

    def _length(self, fields: list[str], length: int, usage: str) -> None:
        if len(fields) != length:
            raise self._error(f"expected {usage!r}")

    def _error(self, text: str) -> TraceError:
        return TraceError(f"{self.name}:{self.line}: {text}")


def _per_packet(bits: np.ndarray, packets: np.ndarray) -> np.ndarray:
    """Bits per packet of each VIP; full packets where the file states none."""
    return np.where(packets > 0, bits / np.maximum(packets, 1e-300), FULL_PACKET_BITS)


__all__ = ["TraceError", "read", "write"]
