"""Starts the switch under test: the embedded xdp switch, or BMv2 or a Tofino's model from PATH."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc

from duet_p4 import bmv2
from ptf_tests import network, tofino_model
from ptf_tests.targets import DEVICE_ID, MODEL, TARGETS

ADDRESS = "127.0.0.1:9559"
"""Where the switch serves P4Runtime, in its own namespace."""

CPU_PORT = 510
START_SECONDS = 30.0
MODEL_START_SECONDS = 120.0


class SwitchError(Exception):
    """The switch did not start; the message holds what it said."""


@contextlib.contextmanager
def start_switch(
    target: str,
    ports: Mapping[int, str],
    log_dir: Path,
    address: str = ADDRESS,
    conf: Path | None = None,
) -> Iterator[str]:
    """Run a switch with these ports (number to interface) in the current namespace; yield its address.

    It waits for a pipeline. Its log is `switch.log` in `log_dir`. `conf` is of a Tofino's program
    (`targets.target_of`). Raises SwitchError where it is not on this machine, or does not serve P4Runtime
    within `START_SECONDS`, a model within
    `MODEL_START_SECONDS`.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / "switch.log"
    log.unlink(missing_ok=True)  # One still running has its own.
    with log.open("wb") as output, contextlib.ExitStack() as running:
        processes = []
        for command in _commands(target, ports, log_dir, address, conf):
            process = subprocess.Popen(
                command,
                cwd=log_dir if target == MODEL else None,  # Its parts leave logs where they are started.
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=network.die_with_parent,
            )
            running.callback(_end, process)
            processes.append(process)
        _wait_until_serving(
            processes, address, log, MODEL_START_SECONDS if target == MODEL else START_SECONDS
        )
        yield address


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _commands(
    target: str, ports: Mapping[int, str], log_dir: Path, address: str, conf: Path | None
) -> list[list[str]]:
    """Return what to run, in this order."""
    if target == MODEL:
        assert conf is not None, "target_of asks for it"
        try:
            return tofino_model.commands(ports, conf, log_dir, address)
        except FileNotFoundError as error:
            raise SwitchError(str(error)) from error
    interfaces = [word for number, name in ports.items() for word in ("-i", f"{number}@{name}")]
    common = ["--device-id", str(DEVICE_ID), "--no-p4", "--log-level", "error", *interfaces]
    target_options = ["--", "--grpc-server-addr", address, "--cpu-port", str(CPU_PORT)]
    if target == "xdp":
        return [[sys.executable, "-m", "duet_p4.xdp_switch", *common, *target_options]]
    if target == "bmv2":
        program = shutil.which(bmv2.COMMAND)
        if program is None:
            raise SwitchError(f"{bmv2.MISSING}: install BMv2, or test the xdp target")
        return [[program, *common, "--log-console", *target_options]]
    raise SwitchError(f"no target is called {target!r}; there are {' and '.join(TARGETS)}")


def _wait_until_serving(
    processes: list[subprocess.Popen[bytes]], address: str, log: Path, seconds: float
) -> None:
    with grpc.insecure_channel(address) as channel:
        ready = grpc.channel_ready_future(channel)
        waited = 0.0
        while waited < seconds:
            try:
                ready.result(timeout=0.2)
                return
            except grpc.FutureTimeoutError:
                waited += 0.2
            if any(process.poll() is not None for process in processes):
                break
    ended = [process.returncode for process in processes if process.poll() is not None]
    state = f"ended with status {ended[0]}" if ended else "is not ready"
    raise SwitchError(f"the switch {state}; its log {log} says:\n{log.read_text(errors='replace')}")
