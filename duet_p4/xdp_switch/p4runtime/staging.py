"""From a pipeline configuration to a pipeline that could run: checked, compiled and loaded, on no port yet.

That takes seconds, so it happens in a thread of its own while everything else goes on. A thread cannot be
stopped: where nobody waits for it any more, what it made is closed when it is done.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finsy.proto import p4r

from duet_p4.bpf.errors import BpfError
from duet_p4.xdp_switch.dataplane import Device, NoRoomError, Pipeline, UnsupportedError
from duet_p4.xdp_switch.p4runtime.errors import (
    P4RuntimeError,
    internal,
    invalid_argument,
    resource_exhausted,
    unimplemented,
)
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from duet_p4.xdp_switch.p4runtime.p4info import Schema
from duet_p4.xdp_switch.p4runtime.packet_io import HeaderCodec
from duet_p4.xdp_switch.p4runtime.roles import Roles
from duet_p4.xdp_switch.p4runtime.translation import CPU_PORT

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Staged:
    """A configuration, its pipeline, and all that clients may write to it."""

    config: p4r.ForwardingPipelineConfig
    forwarding: ForwardingState
    packet_in: HeaderCodec
    packet_out: HeaderCodec

    @property
    def pipeline(self) -> Pipeline:
        """The data plane's part."""
        return self.forwarding.pipeline

    def close(self) -> None:
        """Discard the pipeline."""
        self.pipeline.close()


async def stage(device: Device, config: p4r.ForwardingPipelineConfig, ports: Mapping[int, bool]) -> Staged:
    """Return a configuration made ready; raises P4RuntimeError where the switch cannot run it."""
    schema = Schema.of(config.p4info)
    try:
        pipeline = await _in_thread(lambda: device.stage(config.p4_device_config, config.p4info))
    except UnsupportedError as error:
        raise unimplemented(str(error)) from error
    except NoRoomError as error:
        raise resource_exhausted(f"the entries that the program states do not fit: {error}") from error
    except ValueError as error:
        raise invalid_argument(str(error)) from error
    except (BpfError, OSError) as error:
        raise internal(f"the kernel refused the pipeline: {error}") from error
    except Exception as error:
        _log.exception("the compiler failed")
        raise internal(f"the compiler failed: {type(error).__name__}: {error}") from error
    for translation in schema.types.values():
        if translation.is_port and translation.sdn_width == 32 and device.cpu_port is not None:
            translation.state(CPU_PORT, device.cpu_port)
    try:
        forwarding = ForwardingState(schema, pipeline, Roles(config.p4info), ports)
    except BaseException as error:
        pipeline.close()
        if isinstance(error, P4RuntimeError) or not isinstance(error, Exception):
            raise
        _log.exception("the P4Info does not fit the pipeline")
        raise invalid_argument(
            f"the P4Info does not fit the pipeline: {type(error).__name__}: {error}"
        ) from error
    packet_in, packet_out = (
        HeaderCodec(header, pipeline.packet_layout(header.name) if header is not None else ())
        for header in (schema.packet_in, schema.packet_out)
    )
    return Staged(config, forwarding, packet_in, packet_out)


async def _in_thread(work: Callable[[], Pipeline]) -> Pipeline:
    """Return what `work` makes in a thread; where the caller is cancelled, it is closed once it is made."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Pipeline] = loop.create_future()

    def hand_over(pipeline: Pipeline | None, error: BaseException | None) -> None:
        if made.done():
            if pipeline is not None:
                pipeline.close()
        elif pipeline is not None:
            made.set_result(pipeline)
        else:
            assert error is not None
            made.set_exception(error)

    def run() -> None:
        pipeline: Pipeline | None = None
        failure: BaseException | None = None
        try:
            pipeline = work()
        except StopIteration as error:
            # A future cannot carry it.
            failure = RuntimeError(f"StopIteration {error}")
            failure.__cause__ = error
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(hand_over, pipeline, failure)
        except RuntimeError:
            # The loop has ended.
            if pipeline is not None:
                pipeline.close()

    threading.Thread(target=run, name="stage", daemon=True).start()
    return await made
