"""The command line, which is simple_switch_grpc's: what starts one target starts the other."""

from __future__ import annotations

import argparse
import os
import platform
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duet_p4 import log

PROGRAM = "duet-xdp-switch"
DEFAULT_ADDRESS = "0.0.0.0:9559"
MINIMUM_KERNEL = (5, 18)
"""The first with bpf_loop, bpf_xdp_load_bytes and atomic compare-and-exchange all there."""
CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 39: "CAP_BPF"}

_LEVELS = {
    "trace": "DEBUG",
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARNING",
    "error": "ERROR",
    "off": "ERROR",
}
_NO_EFFECT = ("--thrift-port", "--log-file", "--nanolog", "--notifications-addr", "--max-port-count")
"""Options of simple_switch_grpc with a value that this switch has no use for."""
_TARGET_NO_EFFECT = ("--drop-port", "--priority-queues")


class StartError(Exception):
    """The switch cannot start; the message says why and what to do."""


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


def parse(argv: Sequence[str]) -> Options:
    """Return the options of a command line; argparse exits with status 2 and a message for a bad one."""
    arguments = list(argv)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = _parser()
    main = parser.parse_args(arguments[:split])
    target = _target_parser().parse_args(arguments[split + 1 :])
    ports: dict[int, str] = {}
    for number, interface in main.interface:
        if number in ports:
            parser.error(f"port {number} is given twice: {ports[number]} and {interface}")
        if interface in ports.values():
            parser.error(f"interface {interface} is given to two ports")
        ports[number] = interface
    if main.config is not None and main.no_p4:
        parser.error("--no-p4 and a P4 program exclude each other")
    if main.config is None and not main.no_p4:
        parser.error("give a P4 program (JSON), or --no-p4 to wait for one through P4Runtime")
    if target.cpu_port in ports:
        parser.error(f"port {target.cpu_port} is the CPU port and that of {ports[target.cpu_port]}")
    return Options(
        device_id=main.device_id,
        ports=ports,
        address=target.grpc_server_addr,
        cpu_port=target.cpu_port,
        config=main.config,
        p4info=main.p4info,
        log_level=_LEVELS[main.log_level],
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
    """Return the P4Info of a program: the one given, or the one that p4c writes beside the JSON."""
    beside = [config.with_suffix(suffix) for suffix in (".p4info.txtpb", ".p4info.txt", ".p4info.pb.txt")]
    for candidate in [given] if given else beside:
        if candidate.is_file():
            return candidate
    tried = given or ", ".join(path.name for path in beside)
    raise StartError(f"{config} needs its P4Info: there is no {tried} (say where it is with --p4info)")


def setup_log(options: Options) -> None:
    """Send the log to stderr, named after the device."""
    log.setup(f"device-{options.device_id}", options.log_level)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="A P4 switch: runs BMv2 JSON as native XDP and serves P4Runtime.",
        epilog="After `--`: --grpc-server-addr HOST:PORT or unix:PATH, --cpu-port N. "
        "Other options of simple_switch_grpc are taken and have no effect.",
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
    parser.add_argument("--log-console", action="store_true", help="log to stderr, as it always does")
    parser.add_argument("-L", "--log-level", choices=_LEVELS, default="info")
    parser.add_argument("--log-flush", action="store_true", help=argparse.SUPPRESS)
    for option in _NO_EFFECT:
        parser.add_argument(option, help=argparse.SUPPRESS)
    return parser


def _target_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} ... --", allow_abbrev=False)
    parser.add_argument("--grpc-server-addr", type=_address, default=DEFAULT_ADDRESS, metavar="HOST:PORT")
    parser.add_argument("--cpu-port", type=_number(1, 510), metavar="N")
    for option in _TARGET_NO_EFFECT:
        parser.add_argument(option, help=argparse.SUPPRESS)
    return parser


def _port(text: str) -> tuple[int, str]:
    number, at, interface = text.partition("@")
    if not at or not interface or not number.isascii() or not number.isdigit() or int(number) > 510:
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT@INTERFACE with a port in 0..510")
    return int(number), interface


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
