"""A folder of STF tests: NAME.stf beside NAME.p4, which p4c compiles where build/NAME.json is not there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from finsy.proto import p4i
from google.protobuf import text_format

from duet_p4 import p4c
from duet_p4.bpf import BpfError
from duet_p4.xdp_switch.dataplane import NoRoomError, UnsupportedError
from duet_p4.xdp_switch.stf import script
from duet_p4.xdp_switch.stf.bmv2 import Bmv2
from duet_p4.xdp_switch.stf.interpreter import Interpreter
from duet_p4.xdp_switch.stf.script import ScriptError
from duet_p4.xdp_switch.stf.xdp import Xdp

_V1MODEL = re.compile(r"#\s*include\s*[<\"]v1model\.p4|V1Switch\s*\(")
_SIXTEEN = re.compile(r"#\s*include\s*<(core|v1model)\.p4>|\bcontrol\s+\w+\s*[(<]|\bV1Switch\s*\(")


class Outcome(StrEnum):
    """How a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    REFUSED = "refused"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a test, and why."""

    test: str
    outcome: Outcome
    reason: str = ""


class SuiteError(Exception):
    """The folder cannot be tested at all."""


def tests(folder: Path, pattern: str = "") -> list[Path]:
    """Return the tests in a folder, those whose name contains `pattern`. Raises SuiteError."""
    if not folder.is_dir():
        raise SuiteError(f"{folder} is no folder")
    found = sorted(path for path in folder.rglob("*.stf") if pattern in path.stem)
    if not found:
        raise SuiteError(f"{folder} holds no .stf file" + (f" with {pattern} in its name" if pattern else ""))
    return found


def run(test: Path, target: str = "xdp") -> Verdict:
    """Run one test, on `xdp` or `bmv2`."""
    name = test.stem
    try:
        commands = list(script.read(test.read_text(encoding="utf-8")))
        with tempfile.TemporaryDirectory(prefix="duet-stf-") as scratch:
            config, info = _program(test, Path(scratch))
        switch = Xdp(config, info) if target == "xdp" else Bmv2(config)
    except _SkippedError as error:
        return Verdict(name, Outcome.SKIPPED, str(error))
    except UnsupportedError as error:
        return Verdict(name, Outcome.REFUSED, str(error))
    except (ScriptError, ValueError, BpfError, OSError) as error:
        return Verdict(name, Outcome.FAILED, str(error))
    try:
        problems = differences(commands, switch)
    except (ScriptError, NoRoomError, OSError) as error:
        return Verdict(name, Outcome.FAILED, str(error))
    finally:
        switch.close()
    return Verdict(name, Outcome.FAILED if problems else Outcome.PASSED, "; ".join(problems))


def differences(commands: list[script.Command], switch: Interpreter) -> list[str]:
    """Run a test's commands, and return what is not as expected. Raises ScriptError, NoRoomError."""
    for command in commands:
        if command.name not in ("expect", "no_packet"):
            switch.run(command)
    return list(_differences(commands, switch.sent))


def _differences(commands: list[script.Command], sent: dict[int, list[bytes]]) -> Iterator[str]:
    """Yield what is not as expected, port by port; ports that no command names are not looked at."""
    ports: dict[int, list[str]] = {}
    free: set[int] = set()
    for command in commands:
        if command.name in ("packet", "expect"):
            port, data = int(command.words[0]), command.words[1]
            ports.setdefault(port, [])
            if command.name == "expect" and data:
                ports[port].append(data)
            elif command.name == "expect":
                free.add(port)
    for port, expected in ports.items():
        got = sent.get(port, [])
        if port in free and not expected:
            if not got:
                yield f"port {port}: a packet expected, none left"
            continue
        if len(got) != len(expected):
            shown = ", ".join(frame.hex() for frame in got) or "none"
            yield f"port {port}: {len(expected)} packets expected, {len(got)} left: {shown}"
            continue
        for number, (wanted, frame) in enumerate(zip(expected, got, strict=True)):
            if not script.agrees(wanted, frame):
                yield f"port {port}, packet {number}: {frame.hex()} left, {wanted} expected"


class _SkippedError(Exception):
    """The test is none for this switch."""


def _program(test: Path, scratch: Path) -> tuple[bytes, p4i.P4Info]:
    """Return JSON and P4Info of a test's program, compiled where it is P4."""
    built = test.parent / "build" / test.name
    config, info = built.with_suffix(".json"), built.with_suffix(".p4info.txtpb")
    if not (config.exists() and info.exists()):
        config, info = scratch / config.name, scratch / info.name
        _compile(test.with_suffix(".p4"), config, info)
    return config.read_bytes(), text_format.Parse(info.read_text(encoding="utf-8"), p4i.P4Info())


def _compile(source: Path, config: Path, info: Path) -> None:
    if not source.exists():
        raise _SkippedError(f"there is no {source.name}")
    text = source.read_text(encoding="utf-8", errors="replace")
    sixteen = _SIXTEEN.search(text) is not None
    if sixteen and not _V1MODEL.search(text):
        raise _SkippedError("its architecture is not v1model")
    standard = ("--std", "p4-16" if sixteen else "p4-14")
    try:
        try:
            p4c.compile_p4(source, config, info, *standard)
        except p4c.CompileError:
            # Names of P4-14 may be none that a P4Info takes: then there is none.
            p4c.compile_p4(source, config, None, *standard)
    except FileNotFoundError as error:
        raise _SkippedError(str(error)) from error
    except p4c.CompileError as error:
        told = next((line for line in str(error).splitlines() if "error" in line), str(error)[:200])
        raise _SkippedError(f"{p4c.COMPILER} does not compile it: {told.strip()}") from error
    info.touch()
