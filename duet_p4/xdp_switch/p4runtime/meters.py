"""Meter configurations: what a client may write, and the rates that the data plane meters by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from finsy.proto import p4i, p4r

from duet_p4.xdp_switch.dataplane import MeterRates, Pipeline
from duet_p4.xdp_switch.p4runtime.cells import cell_indexes
from duet_p4.xdp_switch.p4runtime.errors import invalid_argument, unimplemented

if TYPE_CHECKING:
    from duet_p4.xdp_switch.p4runtime.p4info import Meter, Schema


class MeterKind(IntEnum):
    """How a meter colours; the numbers are P4Info's."""

    TWO_RATE_THREE_COLOR = p4i.MeterSpec.TWO_RATE_THREE_COLOR
    SINGLE_RATE_THREE_COLOR = p4i.MeterSpec.SINGLE_RATE_THREE_COLOR
    SINGLE_RATE_TWO_COLOR = p4i.MeterSpec.SINGLE_RATE_TWO_COLOR

    def decode(self, config: p4r.MeterConfig, what: str) -> MeterRates:
        """Return the rates of a configuration; raises INVALID_ARGUMENT, UNIMPLEMENTED for excess bursts."""
        given = (config.cir, config.cburst, config.pir, config.pburst)
        if any(value < 0 for value in (*given, config.eburst)):
            raise invalid_argument(f"{what}: rates and bursts of {given} are not all 0 or above")
        if self is not MeterKind.TWO_RATE_THREE_COLOR and given[:2] != given[2:]:
            raise invalid_argument(f"{what} has a single rate: pir and pburst are to be cir and cburst")
        if self is MeterKind.TWO_RATE_THREE_COLOR and config.pir < config.cir:
            raise invalid_argument(f"{what}: the peak rate {config.pir} is below the committed {config.cir}")
        if config.eburst:
            if self is MeterKind.SINGLE_RATE_THREE_COLOR:
                raise unimplemented(f"{what}: excess bursts are not supported")
            raise invalid_argument(f"{what} has no excess burst")
        return MeterRates(*given)


def fill_config(rates: MeterRates, message: p4r.MeterConfig) -> None:
    """Write rates into a message."""
    message.cir, message.cburst = rates.cir, rates.cburst
    message.pir, message.pburst = rates.pir, rates.pburst


def refuse_color_counters(what: str) -> None:
    """Raise UNIMPLEMENTED: packets are not counted by colour."""
    raise unimplemented(f"{what}: packets are not counted by colour")


class Meters:
    """Write and read the indexed meters of one pipeline."""

    def __init__(self, schema: Schema, pipeline: Pipeline) -> None:
        self._schema = schema
        self._pipeline = pipeline

    def write(self, kind: int, message: p4r.MeterEntry) -> None:
        """Configure one cell, or without an index all of them; without a configuration, always green."""
        meter = self._meter(message.meter_id)
        if kind != p4r.Update.MODIFY:
            raise invalid_argument(f"meter {meter.name} is always there: only MODIFY is possible")
        cells = cell_indexes(message, meter.name, meter.size)
        if message.HasField("counter_data"):
            refuse_color_counters(f"meter {meter.name}")
        rates = None
        if message.HasField("config"):
            rates = meter.kind.decode(message.config, f"meter {meter.name}")
        array = self._pipeline.meters[meter.name]
        try:
            for index in cells:
                array.configure(index, rates)
        except ValueError as error:
            raise invalid_argument(str(error)) from error

    def read(self, message: p4r.MeterEntry) -> Iterator[p4r.MeterEntry]:
        """Return one cell, all cells of a meter, or for id 0 of all meters, as they are now."""
        if message.HasField("counter_data"):
            refuse_color_counters("meters")
        number, every = message.meter_id, list(self._schema.meters.values())
        meters = [self._meter(number)] if number else every
        found: list[tuple[int, int, Sequence[MeterRates | None]]] = []
        for meter in meters:
            cells = cell_indexes(message, meter.name, meter.size)
            array = self._pipeline.meters[meter.name]
            found.append((meter.id, cells.start, [array.read(index) for index in cells]))
        return _encode(found)

    def _meter(self, meter_id: int) -> Meter:
        meter = self._schema.meters.get(meter_id)
        if meter is None:
            raise invalid_argument(f"{meter_id} is no indexed meter of this P4 program")
        return meter


def _encode(arrays: Sequence[tuple[int, int, Sequence[MeterRates | None]]]) -> Iterator[p4r.MeterEntry]:
    for meter_id, first, cells in arrays:
        for index, rates in enumerate(cells, first):
            entry = p4r.MeterEntry(meter_id=meter_id, index=p4r.Index(index=index))
            if rates is not None:
                fill_config(rates, entry.config)
            yield entry
