"""`python -m duet_p4.xdp_switch`: an XDP switch that P4Runtime controls, until SIGTERM or SIGINT.

Nothing is pinned, and XDP attaches by links: when the process ends, in whatever way, its ports go quiet
and the kernel frees programs and tables.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence

import grpc
from finsy.proto import p4i, p4r
from google.protobuf import text_format

from duet_p4 import collector
from duet_p4.bpf.errors import BpfError
from duet_p4.signals import told_to_end
from duet_p4.xdp_switch import cli, drops, sample_service, shaping, trace_service
from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.service import P4RuntimeService
from duet_p4.xdp_switch.p4runtime.transport import create_server
from duet_p4.xdp_switch.queues import Rate

STOP_SECONDS = 0.5
"""How long RPCs may take to end when the switch stops."""

_log = logging.getLogger("duet_p4.xdp_switch")


def main(argv: Sequence[str] | None = None, *, compatible: bool = False) -> int:
    """Run a switch; returns 0 after a signal, 1 where it cannot start.

    With `compatible` it is simple_switch_grpc for whoever starts it.
    """
    options = cli.parse(sys.argv[1:] if argv is None else argv, compatible=compatible)
    collector.relax()
    try:
        cli.setup_log(options)
        cli.check_host(options)
        # Before the event loop runs: pyroute2 has one of its own.
        asyncio.run(_run(options, _rates(options)))
    except (cli.StartError, BpfError) as error:
        print(f"{cli.PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(options: cli.Options, rates: dict[int, Rate]) -> None:
    stop = told_to_end()
    try:
        device = XdpDevice(
            options.cpu_port,
            options.mode,
            rates=rates,
            depth=options.queue_depth,
            sampling=options.sampling,
        )
    except OSError as error:
        raise cli.StartError(f"cannot make the CPU port or the port maps: {error}") from error
    try:
        for port, interface in options.ports.items():
            try:
                device.add_port(port, interface)
            except (ValueError, OSError) as error:
                raise cli.StartError(str(error)) from error
        await _serve(options, device, stop)
    finally:
        device.close()


def _rates(options: cli.Options) -> dict[int, Rate]:
    """Return how fast ports send; where it is simple_switch_grpc, also as traffic control has it.

    Not from within an event loop: pyroute2 runs one of its own.
    """
    rates = dict(options.rates)
    for port, interface in options.ports.items() if options.compatible else ():
        rate = shaping.rate_of(interface) if port not in rates else None
        if rate is not None:
            _log.info(
                "port %d sends %.0f bit/s, as the queueing discipline of %s", port, rate.bits, interface
            )
            rates[port] = rate
    return rates


async def _serve(options: cli.Options, device: XdpDevice, stop: asyncio.Event) -> None:
    service = P4RuntimeService(device, options.device_id)
    server = create_server(service)
    trace_service.add_to(server, device)
    sample_service.add_to(server, device)
    _listen(server, options)
    service.start()
    if options.config is not None:
        action = p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT
        try:
            await service.set_pipeline(action, _read_program(options))
        except P4RuntimeError as error:
            raise cli.StartError(f"{options.config}: {error}") from error
    await server.start()
    _log.info("device %d: Server listening on %s", options.device_id, options.address)
    watching = asyncio.create_task(drops.watch(device), name="dropped packets")
    try:
        await stop.wait()
    finally:
        watching.cancel()
        # Clients may be gone before gRPC has told them that their streams end, which it complains of.
        logging.getLogger("grpc").setLevel(logging.CRITICAL)
        service.stop()
        await service.end_streams()
        await server.stop(STOP_SECONDS)


def _listen(server: grpc.aio.Server, options: cli.Options) -> None:
    address = options.address
    try:
        if options.tls is not None:
            listens = server.add_secure_port(address, _credentials(options.tls))
        else:
            listens = server.add_insecure_port(address)
        if listens:
            return
    except RuntimeError:
        pass
    raise cli.StartError(f"cannot listen on {address}: {_reason(address)}")


def _credentials(tls: cli.Tls) -> grpc.ServerCredentials:
    authority = tls.authority.read_bytes() if tls.authority is not None else None
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], authority, tls.clients_authenticate)


def _reason(address: str) -> str:
    """Return why an address cannot be listened on, which gRPC does not say."""
    if address.startswith("unix:"):
        return "is its folder there, and writable?"
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            return f"{error.strerror} (another switch? choose one with -- --grpc-server-addr)"
    return "gRPC gives no reason"


def _read_program(options: cli.Options) -> p4r.ForwardingPipelineConfig:
    assert options.config is not None
    try:
        path = cli.find_p4info(options.config, options.p4info)
    except cli.StartError:
        if not options.compatible or options.p4info is not None:
            raise
        _log.warning(
            "%s has no P4Info beside it: tables are as it states until one is pushed", options.config
        )
        return p4r.ForwardingPipelineConfig(p4info=p4i.P4Info(), p4_device_config=options.config.read_bytes())
    try:
        info = text_format.Parse(path.read_text(), p4i.P4Info())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise cli.StartError(f"{path} is no P4Info in text form: {error}") from error
    return p4r.ForwardingPipelineConfig(p4info=info, p4_device_config=options.config.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
