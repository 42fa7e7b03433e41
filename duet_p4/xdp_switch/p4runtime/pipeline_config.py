"""SetForwardingPipelineConfig and GetForwardingPipelineConfig: which P4 program runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from finsy.proto import p4i, p4r

from duet_p4.bpf.errors import BpfError
from duet_p4.xdp_switch.dataplane import Device, UnsupportedError
from duet_p4.xdp_switch.p4runtime.errors import (
    P4RuntimeError,
    failed_precondition,
    internal,
    invalid_argument,
    not_found,
    unimplemented,
)
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from duet_p4.xdp_switch.p4runtime.p4info import Schema

_log = logging.getLogger(__name__)

_Action = p4r.SetForwardingPipelineConfigRequest
_Response = p4r.GetForwardingPipelineConfigRequest
_INDIRECT = ("action_profile_member", "action_profile_group")

ResultT = TypeVar("ResultT")


class PipelineConfig:
    """The committed configuration of a device, its forwarding state, and a saved one that waits."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._committed: p4r.ForwardingPipelineConfig | None = None
        self._saved: p4r.ForwardingPipelineConfig | None = None
        self._forwarding: ForwardingState | None = None

    @property
    def running(self) -> ForwardingState | None:
        """The state of the program on the ports, if there is one."""
        return self._forwarding

    def forwarding(self) -> ForwardingState:
        """Return what a Write or Read goes to; raises FAILED_PRECONDITION where there is nothing."""
        if self._saved is not None:
            raise failed_precondition("a saved pipeline configuration waits for COMMIT")
        if self._forwarding is None:
            raise failed_precondition("no forwarding pipeline configuration has been set")
        return self._forwarding

    async def set(self, action: int, config: p4r.ForwardingPipelineConfig | None) -> None:
        """Carry out a SetForwardingPipelineConfig; a P4RuntimeError leaves everything as it was.

        Compiling takes seconds, so it happens off the event loop.
        """
        if action == _Action.COMMIT:
            if config is not None:
                raise invalid_argument("COMMIT takes no config: it commits the one saved before")
            if self._saved is None:
                raise not_found("there is no saved config to commit: VERIFY_AND_SAVE one first")
            await self._commit(self._saved)
            return
        if config is None or not config.HasField("p4info"):
            raise invalid_argument("the request carries no config with a P4Info")
        if action in (_Action.VERIFY, _Action.VERIFY_AND_SAVE):
            Schema.of(config.p4info)
            await self._run(self._device.verify, config)
            if action == _Action.VERIFY_AND_SAVE:
                self._saved = config
        elif action == _Action.VERIFY_AND_COMMIT:
            await self._commit(config)
        elif action == _Action.RECONCILE_AND_COMMIT:
            await self._reconcile(config)
        else:
            raise invalid_argument(f"action {action} is not one of SetForwardingPipelineConfig")

    def get(self, response_type: int) -> p4r.GetForwardingPipelineConfigResponse:
        """Return the committed configuration, or an empty answer where there is none."""
        response = p4r.GetForwardingPipelineConfigResponse()
        if response_type not in _Response.ResponseType.values():
            raise invalid_argument(f"response type {response_type} does not exist")
        if self._committed is None:
            return response
        config = response.config
        config.SetInParent()
        if self._committed.HasField("cookie"):
            config.cookie.CopyFrom(self._committed.cookie)
        if response_type in (_Response.ALL, _Response.P4INFO_AND_COOKIE):
            config.p4info.CopyFrom(self._committed.p4info)
        if response_type in (_Response.ALL, _Response.DEVICE_CONFIG_AND_COOKIE):
            config.p4_device_config = self._committed.p4_device_config
        return response

    async def _commit(self, config: p4r.ForwardingPipelineConfig) -> None:
        schema = Schema.of(config.p4info)
        pipeline = await self._run(self._device.load, config)
        self._forwarding = ForwardingState(schema, pipeline)
        self._committed, self._saved = config, None
        _log.info("runs a pipeline of %d tables", len(schema.tables))

    async def _reconcile(self, config: p4r.ForwardingPipelineConfig) -> None:
        """Commit a configuration and keep the entries; the same program goes on without a break."""
        before, committed = self._forwarding, self._committed
        if before is None or committed is None:
            await self._commit(config)
            return
        same_info = config.p4info == committed.p4info
        if same_info and config.p4_device_config == committed.p4_device_config:
            self._committed, self._saved = config, None
            return
        kept = [*_entities(before, _INDIRECT), *_entities(before, ["table_entry"]), *_defaults(before)]
        if kept and not same_info:
            raise invalid_argument("the P4Info changes, so the entries that are there cannot be kept")
        await self._commit(config)
        after = self.forwarding()
        try:
            for entity in list(_entities(after, ["table_entry"])):
                after.write(p4r.Update(type=p4r.Update.DELETE, entity=entity))
            for entity in kept:
                kind = p4r.Update.MODIFY if entity.table_entry.is_default_action else p4r.Update.INSERT
                after.write(p4r.Update(type=kind, entity=entity))
        except P4RuntimeError as error:
            raise internal(f"an entry was lost in the change of pipelines: {error}") from error

    async def _run(
        self, function: Callable[[bytes, p4i.P4Info], ResultT], config: p4r.ForwardingPipelineConfig
    ) -> ResultT:
        try:
            return await asyncio.to_thread(function, config.p4_device_config, config.p4info)
        except UnsupportedError as error:
            raise unimplemented(str(error)) from error
        except ValueError as error:
            raise invalid_argument(str(error)) from error
        except (BpfError, OSError) as error:
            raise internal(f"the kernel refused the pipeline: {error}") from error


def _entities(state: ForwardingState, names: Iterable[str]) -> Iterator[p4r.Entity]:
    """Yield the entities of these kinds that a client could have written."""
    for name in names:
        query = p4r.Entity()
        getattr(query, name).SetInParent()
        for entity in state.read(query):
            if not entity.table_entry.is_const:
                yield entity


def _defaults(state: ForwardingState) -> Iterator[p4r.Entity]:
    """Yield the default entries that a client has changed."""
    for message in state.changed_defaults():
        yield p4r.Entity(table_entry=message)
