"""The command line, which is simple_switch_grpc's: what starts one target starts the other."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from duet_p4 import log
from duet_p4.api.flows import MAX_SAMPLING
from duet_p4.xdp_switch.device import RunMode
from duet_p4.xdp_switch.queues import DEPTH, Rate

PROGRAM = "duet-xdp-switch"
DEFAULT_ADDRESS = "0.0.0.0:9559"
MINIMUM_KERNEL = (6, 1)
"""The oldest that programs were loaded on; bpf_loop and bpf_xdp_load_bytes came with 5.17 and 5.18."""
_P4INFO_SUFFIXES = (".p4info.txtpb", ".p4info.txt", ".p4info.pb.txt")
CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 39: "CAP_BPF"}

_LEVELS = {
    "trace": "DEBUG",
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARNING",
    "error": "ERROR",
    "off": "ERROR",
}
_SILENT = (
    "--nanolog",
    "--notifications-addr",
    "--max-port-count",
    "--log-file-max-size",
    "--log-file-max-files",
)
"""Options of simple_switch_grpc with a value that make no difference here."""
_TARGET_SILENT = ("--drop-port", "--max-mc-groups", "--max-l1-entries", "--max-l2-entries")
_SAID = {
    "--pcap": "packets in XDP cannot be written to pcap files: run tcpdump at the far end of a port",
    "--dump-packet-data": "packets are not logged: run tcpdump at the far end of a port",
    "--thrift-port": "there is no Thrift server, so no simple_switch_CLI: use P4Runtime",
    "--debugger-addr": "there is no debugger",
}
"""Options with a value that have no effect, and what is said of it."""
_REFUSED = {
    "--use-files": "packets come from interfaces, not from pcap files",
    "--packet-in": "packets come from interfaces, not from a socket",
    "--restore-state": "state is not kept in files",
    "--dp-grpc-server-addr": "packets come from interfaces, not by gRPC",
}


class StartError(Exception):
    """The switch cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files, in PEM, of the server's certificate and key, and of the authority of clients' certificates."""

    certificate: Path
    key: Path
    authority: Path | None
    clients_authenticate: bool


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    device_id: int
    ports: dict[int, str]
    address: str
    cpu_port: int | None
    config: Path | None
    p4info: Path | None
    log_level: str
    log_file: Path | None = None
    mode: RunMode = "native"
    tls: Tls | None = None
    compatible: bool = False
    """Whether to do without a P4Info beside the JSON, as simple_switch_grpc does."""
    rates: dict[int, Rate] = field(default_factory=dict)
    """How fast ports send; the others send as fast as they can."""
    sampling: int = 0
    """One frame in so many that leave is looked at for flow records; 0: none."""
    queue_depth: int = DEPTH
    """How many packets wait for each port with a rate."""
    remarks: tuple[str, ...] = ()
    """What is to be said of options that have no effect."""


def parse(argv: Sequence[str], *, compatible: bool = False) -> Options:
    """Return the options of a command line; argparse exits with status 2 and a message for a bad one.

    With `compatible` defaults are such that scripts for simple_switch_grpc run as they are.
    """
    arguments = list(argv)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = _parser(compatible=compatible)
    main = parser.parse_args(arguments[:split])
    target = _target_parser().parse_args(arguments[split + 1 :])
    ports: dict[int, str] = {}
    for number, interface in main.interface:
        if number in ports:
            parser.error(f"port {number} is given twice: {ports[number]} and {interface}")
        if interface in ports.values():
            parser.error(f"interface {interface} is given to two ports")
        ports[number] = interface
    for number, _ in main.queue_rate:
        if number not in ports:
            parser.error(f"--queue-rate names port {number}, which has no interface")
    if main.config is not None and main.no_p4:
        parser.error("--no-p4 and a P4 program exclude each other")
    if main.config is None and not main.no_p4:
        parser.error("give a P4 program (JSON), or --no-p4 to wait for one through P4Runtime")
    if target.cpu_port in ports:
        parser.error(f"port {target.cpu_port} is the CPU port and that of {ports[target.cpu_port]}")
    given = {**vars(main), **{name: value for name, value in vars(target).items() if value is not None}}
    for option, reason in _REFUSED.items():
        if given.get(_name(option)) is not None:
            parser.error(f"{option} is not possible: {reason}")
    remarks = [f"{option}: {text}" for option, text in _SAID.items() if given.get(_name(option)) is not None]
    if main.debugger:
        remarks.append("--debugger: there is no debugger")
    if target.priority_queues not in (None, "1"):
        remarks.append("--priority-queues: there is one queue")
    return Options(
        device_id=main.device_id,
        ports=ports,
        address=target.grpc_server_addr,
        cpu_port=target.cpu_port,
        config=main.config,
        p4info=main.p4info,
        log_level=_LEVELS[main.log_level],
        log_file=Path(f"{main.log_file}.txt") if main.log_file else None,
        mode=main.xdp_mode,
        tls=_tls(parser, target),
        compatible=compatible,
        rates=dict(main.queue_rate),
        sampling=main.flow_sampling,
        queue_depth=main.queue_depth,
        remarks=tuple(remarks),
    )


def check_host(options: Options) -> None:
    """Raise StartError where kernel, capabilities or interfaces do not allow what was asked for."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    if found is None or tuple(map(int, found.groups())) < MINIMUM_KERNEL:
        wanted = ".".join(map(str, MINIMUM_KERNEL))
        raise StartError(f"kernel {platform.release()} is too old: {wanted} or later is needed")
    missing = missing_capabilities()
    if missing:
        raise StartError(f"{' and '.join(missing)} missing: start it as root")
    for number, interface in options.ports.items():
        try:
            socket.if_nametoindex(interface)
        except OSError:
            raise StartError(f"port {number}: this network namespace has no interface {interface}") from None


def missing_capabilities() -> list[str]:
    """Return the capabilities for loading and attaching XDP programs that this process lacks."""
    status = Path("/proc/self/status").read_text()
    effective = int(re.findall(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)[0], 16)
    lacks = {name for bit, name in CAPABILITIES.items() if not effective >> bit & 1}
    if "CAP_SYS_ADMIN" not in lacks:
        lacks.discard("CAP_BPF")
    return sorted(lacks - {"CAP_SYS_ADMIN"})


def find_p4info(config: Path, given: Path | None) -> Path:
    """Return the P4Info of a program: the one given, or the one beside it, named as p4c or p4-utils do."""
    beside = [config.with_suffix(before + suffix) for before in ("", ".p4") for suffix in _P4INFO_SUFFIXES]
    beside.append(config.with_name(f"{config.stem}_p4rt.txt"))
    for candidate in [given] if given else beside:
        if candidate.is_file():
            return candidate
    tried = given or ", ".join(path.name for path in beside[:3])
    raise StartError(f"{config} needs its P4Info: there is no {tried} (say where it is with --p4info)")


def setup_log(options: Options) -> None:
    """Send the log to stderr, or to a file, named after the device, and say what options do not do.

    Raises StartError where the file cannot be written.
    """
    stream = None
    if options.log_file is not None:
        try:
            stream = options.log_file.open("a", buffering=1)
        except OSError as error:
            raise StartError(f"cannot write the log file {options.log_file}: {error.strerror}") from error
    log.setup(f"device-{options.device_id}", options.log_level, stream)
    for remark in options.remarks:
        logging.getLogger(__name__).warning("%s", remark)


def _name(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _tls(parser: argparse.ArgumentParser, target: argparse.Namespace) -> Tls | None:
    if not target.grpc_server_ssl:
        return None
    if target.grpc_server_cert is None or target.grpc_server_key is None:
        parser.error("--grpc-server-ssl needs --grpc-server-cert and --grpc-server-key")
    if target.grpc_server_with_client_auth and target.grpc_server_cacert is None:
        parser.error("--grpc-server-with-client-auth needs --grpc-server-cacert")
    return Tls(
        target.grpc_server_cert,
        target.grpc_server_key,
        target.grpc_server_cacert,
        target.grpc_server_with_client_auth,
    )


def _parser(*, compatible: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simple_switch_grpc" if compatible else PROGRAM,
        allow_abbrev=False,
        description="A P4 switch: runs BMv2 JSON as native XDP and serves P4Runtime.",
        epilog="After `--`: --grpc-server-addr HOST:PORT or unix:PATH, --cpu-port N, --grpc-server-ssl and "
        "its files. Other options of simple_switch_grpc are taken; what has no effect is said in the log.",
    )
    parser.add_argument("config", nargs="?", type=_file, metavar="JSON", help="P4 program to start with")
    parser.add_argument("--p4info", type=_file, help="its P4Info, if not beside it")
    parser.add_argument("--no-p4", action="store_true", help="start without a P4 program")
    parser.add_argument(
        "-i",
        "--interface",
        action="append",
        default=[],
        type=_port,
        metavar="PORT@INTERFACE",
        help="attach an interface as this port (repeatable)",
    )
    parser.add_argument("--device-id", type=_number(0, 2**64 - 1), default=0, metavar="ID")
    parser.add_argument(
        "--xdp-mode",
        choices=get_args(RunMode),
        default="auto" if compatible else "native",
        help="run in the driver (native), on socket buffers (generic, slower), or as ports allow (auto)",
    )
    parser.add_argument(
        "--queue-rate",
        action="append",
        default=[],
        type=_queue_rate,
        metavar="PORT@RATE",
        help="how fast a port sends, packets per second or 500kbit, 10mbit: others wait (repeatable)",
    )
    parser.add_argument(
        "--queue-depth",
        type=_number(1, 100_000),
        default=DEPTH,
        metavar="N",
        help="packets that wait for each port with a rate; default: %(default)s",
    )
    parser.add_argument(
        "--flow-sampling",
        type=_number(0, MAX_SAMPLING),
        default=0,
        metavar="N",
        help="one frame in N that leaves is looked at for flow records; default: %(default)s, none",
    )
    parser.add_argument("--log-console", action="store_true", help="log to stderr, as it does without a file")
    parser.add_argument("--log-file", metavar="FILE", help="log to FILE.txt")
    parser.add_argument("-L", "--log-level", choices=_LEVELS, default="info")
    parser.add_argument("-v", "--version", action="version", version=f"duet-p4 {version('duet-p4')}")
    parser.add_argument("--json-version", action="version", version="2.23")
    for option in ("--log-flush", "--debugger"):
        parser.add_argument(option, action="store_true", help=argparse.SUPPRESS)
    for option in (*_SILENT, *_SAID, *_REFUSED):
        parser.add_argument(option, help=argparse.SUPPRESS)
    return parser


def _target_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} ... --", allow_abbrev=False)
    parser.add_argument("--grpc-server-addr", type=_address, default=DEFAULT_ADDRESS, metavar="HOST:PORT")
    parser.add_argument("--cpu-port", type=_number(1, 510), metavar="N")
    for option in ("--grpc-server-ssl", "--grpc-server-with-client-auth"):
        parser.add_argument(option, action="store_true", help=argparse.SUPPRESS)
    for option in ("--grpc-server-cert", "--grpc-server-key", "--grpc-server-cacert"):
        parser.add_argument(option, type=_file, metavar="PEM", help=argparse.SUPPRESS)
    for option in ("--enable-swap", "--disable-swap"):
        parser.add_argument(option, action="store_true", help=argparse.SUPPRESS)
    for option in (*_TARGET_SILENT, "--priority-queues", "--thrift-port", "--dp-grpc-server-addr"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    return parser


def _port(text: str) -> tuple[int, str]:
    number, at, interface = text.partition("@")
    if not at or not interface or not number.isascii() or not number.isdigit() or int(number) > 510:
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT@INTERFACE with a port in 0..510")
    return int(number), interface


def _queue_rate(text: str) -> tuple[int, Rate]:
    number, at, rate = text.partition("@")
    if not at or not number.isascii() or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT@RATE")
    try:
        return int(number), Rate.parse(rate)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _address(text: str) -> str:
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is neither HOST:PORT nor unix:PATH")
    return text


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read")
    return path


class _number:  # noqa: N801
    """An argparse type: an integer within bounds."""

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._high = high

    def __call__(self, text: str) -> int:
        if not text.isascii() or not text.isdigit() or not self._low <= int(text) <= self._high:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer in {self._low}..{self._high}")
        return int(text)
