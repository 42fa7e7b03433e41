"""Set- and GetForwardingPipelineConfig: which P4 program runs, and which one waits to.

A push is carried out by a task of its own. Whoever waits for it may go away at any time: then the push is
dropped at its next step, or, where it has gone as far as changing something, carried out whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from finsy.proto import p4r

from duet_p4.bpf.errors import BpfError
from duet_p4.xdp_switch.dataplane import Device
from duet_p4.xdp_switch.p4runtime.batch import Batch, Results
from duet_p4.xdp_switch.p4runtime.errors import (
    P4RuntimeError,
    aborted,
    failed_precondition,
    internal,
    invalid_argument,
    not_found,
)
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from duet_p4.xdp_switch.p4runtime.reconcile import Reconciliation
from duet_p4.xdp_switch.p4runtime.rollback import apply_or_roll_back
from duet_p4.xdp_switch.p4runtime.staging import Staged, stage
from duet_p4.xdp_switch.p4runtime.turns import Turns

_log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")
_Action = p4r.SetForwardingPipelineConfigRequest
_Response = p4r.GetForwardingPipelineConfigRequest


class PipelineConfig:
    """The configuration that runs, and a saved one that waits for COMMIT."""

    def __init__(
        self,
        device: Device,
        turns: Turns,
        before_change: Callable[[], None],
        after_change: Callable[[], None],
    ) -> None:
        """The functions are called just before and after another pipeline takes over the ports."""
        self.ports: Mapping[int, bool] = device.port_states()
        """Which ports there are, and which are up."""
        self._device = device
        self._before_change, self._after_change = before_change, after_change
        self._turns = turns
        self._running: Staged | None = None
        self._saved: Staged | None = None
        self._one_push = asyncio.Lock()
        self._pushes: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> Staged | None:
        """What is on the ports, if anything."""
        return self._running

    def forwarding(self) -> ForwardingState:
        """Return what a Write or Read goes to: the saved configuration's state, else the running one's.

        Raises FAILED_PRECONDITION where there is neither.
        """
        staged = self._saved or self._running
        if staged is None:
            raise failed_precondition("no forwarding pipeline configuration has been set")
        return staged.forwarding

    async def set(
        self, action: int, config: p4r.ForwardingPipelineConfig | None, permitted: Callable[[], None]
    ) -> None:
        """Carry out a SetForwardingPipelineConfig; a P4RuntimeError leaves everything as it was.

        `permitted` raises where the client may not, or may no longer, do so. When this call is cancelled, the
        push is dropped, unless it is done.
        """
        push = _Push(permitted)
        await self._carry_out(self._set(action, config, push), push)

    async def write_at_once(
        self, updates: Sequence[p4r.Update], role: str, permitted: Callable[[], None]
    ) -> Results:
        """Carry out a batch such that a packet sees all of it or nothing; a refused one changes nothing.

        The program is staged a second time, gets the state of the one that runs, and the batch; then it takes
        over the ports. That takes as long as a push, and nothing else is written meanwhile; packets go on.
        Raises P4RuntimeError as `set` does.
        """
        push = _Push(permitted)
        return await self._carry_out(self._write_at_once(updates, role, push), push)

    def get(self, response_type: int) -> p4r.GetForwardingPipelineConfigResponse:
        """Return the configuration that runs, or an empty answer where there is none."""
        response = p4r.GetForwardingPipelineConfigResponse()
        if response_type not in _Response.ResponseType.values():
            raise invalid_argument(f"response type {response_type} does not exist")
        if self._running is None:
            return response
        source, config = self._running.config, response.config
        config.SetInParent()
        if source.HasField("cookie"):
            config.cookie.CopyFrom(source.cookie)
        if response_type in (_Response.ALL, _Response.P4INFO_AND_COOKIE):
            config.p4info.CopyFrom(source.p4info)
        if response_type in (_Response.ALL, _Response.DEVICE_CONFIG_AND_COOKIE):
            config.p4_device_config = source.p4_device_config
        return response

    def ports_changed(self, ports: Mapping[int, bool]) -> None:
        """Take note of ports that went up or down."""
        self.ports = ports
        for staged in (self._running, self._saved):
            if staged is not None:
                staged.forwarding.ports_changed(ports)

    async def _carry_out(self, work: Coroutine[None, None, ResultT], push: _Push) -> ResultT:
        """Return what work comes to, in a task of its own; where the caller is cancelled it is told so."""
        task = asyncio.create_task(work)
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            push.abandoned = True
            task.add_done_callback(_retrieve)
            raise

    async def _write_at_once(self, updates: Sequence[p4r.Update], role: str, push: _Push) -> Results:
        async with self._one_push:
            push.check()
            running = self._running
            if len(updates) <= 1 or self._saved is not None or running is None:
                # One update is atomic by itself, and a saved program meets no packets.
                async with self._turns.hold(None):
                    push.check()
                    return apply_or_roll_back(Batch(self.forwarding(), updates, []), role)
            staged = await stage(self._device, running.config, self.ports)
            try:
                async with self._turns.hold(None):
                    push.check()
                    staged.forwarding.ports_changed(self.ports)
                    reconciliation = Reconciliation(running, staged)
                    await reconciliation.copy()
                    push.check()
                    reconciliation.copy_state()
                    results = apply_or_roll_back(Batch(staged.forwarding, updates, []), role)
                    if not any(results):
                        self._activate(staged, reconciliation.settle)
                    return results
            finally:
                if staged is not self._running:
                    staged.close()

    async def _set(self, action: int, config: p4r.ForwardingPipelineConfig | None, push: _Push) -> None:
        if action == _Action.COMMIT:
            if config is not None:
                raise invalid_argument("COMMIT takes no config: it commits the one saved before")
            async with self._turns.hold(None):
                push.check()
                if self._saved is None:
                    raise not_found("there is no saved config to commit: VERIFY_AND_SAVE one first")
                self._activate(self._saved)
            return
        if action not in _Action.Action.values() or action == _Action.UNSPECIFIED:
            raise invalid_argument(f"action {action} is not one of SetForwardingPipelineConfig")
        if config is None or not config.HasField("p4info"):
            raise invalid_argument("the request carries no config with a P4Info")
        async with self._one_push:
            push.check()
            if action == _Action.RECONCILE_AND_COMMIT and await self._is_same(config, push):
                return
            staged = await stage(self._device, config, self.ports)
            try:
                await self._use(action, staged, push)
            finally:
                if staged is not self._running and staged is not self._saved:
                    staged.close()

    async def _use(self, action: int, staged: Staged, push: _Push) -> None:
        """Do with a staged configuration what was asked for, in one step or not at all."""
        if action == _Action.VERIFY:
            return
        async with self._turns.hold(None):
            push.check()
            staged.forwarding.ports_changed(self.ports)
            if action == _Action.VERIFY_AND_SAVE:
                self._save(staged)
                return
            if action == _Action.RECONCILE_AND_COMMIT and self._running is not None:
                reconciliation = Reconciliation(self._running, staged)
                await reconciliation.copy()
                push.check()
                reconciliation.copy_state()
                self._activate(staged, reconciliation.settle)
            else:
                self._activate(staged)

    async def _is_same(self, config: p4r.ForwardingPipelineConfig, push: _Push) -> bool:
        """Take note of a configuration that runs already, which goes on without a break."""
        async with self._turns.hold(None):
            push.check()
            running = self._running
            if (
                running is None
                or running.config.p4info != config.p4info
                or running.config.p4_device_config != config.p4_device_config
            ):
                return False
            self._running = Staged(config, running.forwarding, running.packet_in, running.packet_out)
            self._save(None)
            return True

    def _activate(self, staged: Staged, settle: Callable[[], None] | None = None) -> None:
        """Put a staged configuration on the ports; where they refuse, everything is as it was."""
        self._before_change()
        try:
            self._device.activate(staged.pipeline, settle)
            self._running = staged
        except (BpfError, OSError) as error:
            raise internal(f"the ports refused the pipeline: {error}") from error
        finally:
            self._after_change()
        if staged is self._saved:
            self._saved = None
        self._save(None)
        _log.info("runs a pipeline of %d tables", len(staged.forwarding.schema.tables))

    def _save(self, staged: Staged | None) -> None:
        before, self._saved = self._saved, staged
        if before is not None:
            before.close()


class _Push:
    """A push under way: whether it is still permitted, and wanted."""

    def __init__(self, permitted: Callable[[], None]) -> None:
        self._permitted = permitted
        self.abandoned = False

    def check(self) -> None:
        """Raise P4RuntimeError where the push is to be dropped."""
        if self.abandoned:
            raise aborted("the client went away")
        self._permitted()


def _retrieve(task: asyncio.Task[ResultT]) -> None:
    """Take a failure that nobody waits for any more."""
    if not task.cancelled() and (error := task.exception()) and not isinstance(error, P4RuntimeError):
        _log.error("a push that was dropped failed: %s", error)
