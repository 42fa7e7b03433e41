"""The updates of a Write that are carried out one after the other, or many at once where that is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass

from finsy.proto import p4r

from duet_p4.xdp_switch.p4runtime.bulk import Run
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState

TURN = 64
"""Entities of a Write or Read between two looks at the packets; a run is one step."""

Results = list[P4RuntimeError | None]
"""What became of each update of a batch, None where it was taken."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The updates of a Write, of which some are in runs."""

    state: ForwardingState
    updates: Sequence[p4r.Update]
    runs: Sequence[Run]

    def objects(self) -> Collection[Hashable] | None:
        """Return what they are about; None for everything."""
        single = (update.entity for _, updates in self._steps() for update in updates)
        objects = self.state.objects(single)
        return None if objects is None else {*objects, *(run.table_id for run in self.runs)}

    async def apply(self, role: str) -> Results:
        """Carry them out in order and return what became of each."""
        results: Results = []
        for run, updates in self._steps():
            for number, update in enumerate(updates, 1):
                results.append(self._write(update, role))
                if number % TURN == 0:
                    await asyncio.sleep(0)
            if run is not None:
                if self.state.write_run(run, role):
                    results += [None] * len(run)
                else:
                    results += await Batch(self.state, self.updates[run.first : run.stop], []).apply(role)
                if run.stop < len(self.updates):
                    await asyncio.sleep(0)
        return results

    def _steps(self) -> Iterator[tuple[Run | None, Sequence[p4r.Update]]]:
        """Yield each run after the updates before it that are in none, and those behind the last one."""
        at = 0
        for run in self.runs:
            yield run, self.updates[at : run.first]
            at = run.stop
        yield None, self.updates[at:]

    def _write(self, update: p4r.Update, role: str) -> P4RuntimeError | None:
        try:
            self.state.write(update, role)
        except P4RuntimeError as error:
            return error.with_traceback(None)
        return None
