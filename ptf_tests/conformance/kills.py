"""Which mutants of hmux.p4 its oracles tell from it: what the vectors and p4testgen's tests are worth.

Mutants run on BMv2, which takes a program as it is: in a tenth of a second where xdp compiles for three.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from duet_p4.xdp_switch.stf import bmv2 as stf_bmv2
from duet_p4.xdp_switch.stf import script, suite
from ptf_tests.conformance import testgen, vectors
from ptf_tests.conformance.bmv2 import Bmv2, OracleError
from ptf_tests.conformance.differences import compare
from ptf_tests.conformance.equivalence import Equivalence
from ptf_tests.conformance.hmux import PROGRAM
from ptf_tests.conformance.mutants import Mutant, mutants
from ptf_tests.conformance.vectors import Recording
from ptf_tests.p4runtime import WriteError

_SLICE = 144
"""Frames after which it is asked whether a mutant has shown itself."""

KNOWN = {
    r"^(HmuxIngress\.routing\.to_cpu|HmuxIngress\.admission\.punt): without .*padding = 0": (
        "a field of a header that was not received is 0 already"
    ),
    r"^HmuxIngress\.tunneling\.\w+: without .*(more_fragments|fragment_offset) = 0": (
        "only a tunnel that is no fragment is taken for one"
    ),
    r"^HmuxIngress\.icmp_errors\.make_error: without .*(more_fragments|fragment_offset) = 0": (
        "only a tunnel that is no fragment is taken for one"
    ),
    r"^admission87: without (port_mac|is_guarded|is_tunnel_free) = 0": "metadata starts as 0",
    r"^parse_ipv4: without 0x05000000(06|11) ": "parse_l4 goes to parse_ports for these too",
    r"^v1model_target\.p4:120: without icmp_error\.identifier": "it is 0 in every error made here",
    r"^parse_(ipv4|tunneled): 0x7 is 0x6$": "any parser error is as good as another",
    r"^parse_(ipv4|tunneled): 0x5 is 0x4$": "a header of four words runs out of options: malformed, too",
    r"^parse_portless: 0xffff is 0xfffe$": "the select does not look at the lowest bit",
    r"^parse_icmp_error: 0xffff is 0xfffe$": "35 is as short as 34",
    r"^parse_quoted_icmp: 0xffffffffffffffff is": "the select looks at the highest bits",
    r"^admission\.p4:87: 0x0 is 0x1$": "each port's action sets port_mac",
    r"^icmp_errors\.p4:56: 0xffffffff is 0xfffffffe$": "the reason is DROP_TOO_BIG there, an even number",
    r"^hop\.p4:(29|30): 0x0 is 0x1$": "what is not answered needs no code and no MTU",
    r"^HmuxIngress\.hop\.refuse: without = (type|code|mtu)": "it sets 0, and metadata starts as 0",
    r"^icmp_errors\d+: without exit": "nothing follows it",
    r"^flow_hash\.p4:32: 0x100000000 is 0x100000001$": "a CRC of 32 bits is below both",
}
"""Why what is left cannot be told from hmux.p4."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant: who killed it, or why nobody can; neither where it survived."""

    operator: str
    what: str
    killed_by: str
    equal_because: str = ""


@functools.cache
def all_mutants() -> list[Mutant]:
    """Return every mutant of hmux.p4."""
    return list(mutants(_config()))


@functools.cache
def _config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads(PROGRAM.device_config.read_bytes())
    return config


@functools.cache
def _recordings() -> list[Recording]:
    return vectors.read(vectors.path_of(PROGRAM)).recordings


@functools.cache
def _equivalence() -> Equivalence:
    return Equivalence(_config(), KNOWN)


def judge(number: int) -> Verdict:
    """Have the oracles look at one mutant. Raises OracleError where BMv2 is not on PATH."""
    mutant = all_mutants()[number]
    with tempfile.TemporaryDirectory(prefix="duet-mutant-") as folder:
        path = Path(folder) / "mutant.json"
        path.write_text(json.dumps(mutant.config()))
        killed = _by_vectors(path) or _by_testgen(path)
    why = "" if killed else _equivalence().reason(mutant)
    return Verdict(mutant.operator, mutant.what, killed, why)


def _by_vectors(config: Path) -> str:
    mutated = dataclasses.replace(PROGRAM, device_config=config)
    try:
        with Bmv2(mutated) as target:
            for number, recording in enumerate(_recordings()):
                if number:
                    target.empty()
                if _differs(target, recording):
                    return f"vectors: {recording.state.name}"
    except (OracleError, WriteError, RuntimeError, grpc.RpcError) as error:
        if "is not on PATH" in str(error):
            raise
        return f"BMv2: {str(error).splitlines()[0][:80]}"
    return ""


def _differs(target: Bmv2, recording: Recording) -> bool:
    target.write(recording.state.updates)
    for first in range(0, len(recording.cases), _SLICE):
        cases = recording.cases[first : first + _SLICE]
        got = target.send([(case.port, case.frame) for case in cases])
        if compare(cases, recording.expected[first : first + _SLICE], got):
            return True
    return target.counters() != recording.counters


def _by_testgen(config: Path) -> str:
    commands = list(script.read(testgen.PATH.read_text()))
    switch = stf_bmv2.Bmv2(config.read_bytes())
    try:
        told = suite.differences(commands, switch)
    finally:
        switch.close()
    return "p4testgen" if told else ""


def judge_all(numbers: Sequence[int], jobs: int, tell: Callable[[Verdict], None]) -> list[Verdict]:
    """Judge mutants, some at a time, and `tell` each verdict."""
    verdicts = []
    with ProcessPoolExecutor(jobs) as pool:
        for verdict in pool.map(judge, numbers, chunksize=4):
            verdicts.append(verdict)
            tell(verdict)
    return verdicts


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return counts, by operator and in all, and every mutant that survived or is equal, with the reason."""
    told = [v for v in verdicts if not v.equal_because]
    killed = sum(bool(v.killed_by) for v in told)
    return {
        "mutants": len(verdicts),
        "equal": len(verdicts) - len(told),
        "killed": killed,
        "killed_share": round(killed / len(told), 4) if told else None,
        "by_operator": {
            operator: {
                "killed": sum(bool(v.killed_by) for v in told if v.operator == operator),
                "of": sum(v.operator == operator for v in told),
            }
            for operator in sorted({v.operator for v in verdicts})
        },
        "by_oracle": dict(sorted(Counter(v.killed_by.split(":")[0] for v in told if v.killed_by).items())),
        "survivors": [f"{v.operator}, {v.what}" for v in told if not v.killed_by],
        "equal_because": _grouped([v for v in verdicts if v.equal_because]),
    }


def _grouped(verdicts: Sequence[Verdict]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for verdict in verdicts:
        grouped.setdefault(verdict.equal_because, []).append(f"{verdict.operator}, {verdict.what}")
    return grouped
