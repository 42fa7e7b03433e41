"""`python -m ptf_tests --target xdp|bmv2|tofino-model`: make a network, start the switch, run packet tests.

The network is a namespace of this process, so that it vanishes with it. The exit status is the verdict.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc

from ptf_tests import network, tofino_model
from ptf_tests.p4runtime import P4Runtime
from ptf_tests.switch import SwitchError, start_switch
from ptf_tests.targets import MODEL, TARGETS, Target, target_of

PORTS = range(1, 7)
TEST_SECONDS = 120
"""How long one test may take before it fails."""

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the tests named on the command line, or all; return 0 where all pass."""
    parser = argparse.ArgumentParser(prog="ptf_tests", description=__doc__)
    parser.add_argument(
        "tests", nargs="*", help="MODULE or MODULE.CLASS, as in ptf_tests/specs; default: all"
    )
    parser.add_argument("--target", choices=TARGETS, default="xdp")
    parser.add_argument("--log-dir", type=Path, help="where the logs go; default: build/ptf/TARGET")
    parser.add_argument(
        "--conf",
        type=Path,
        help="what the compiler wrote of a Tofino's program for its driver, with tofino-model",
    )
    arguments = parser.parse_args()
    # So that the switch and the namespace go away in an orderly manner when asked to.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    conf = arguments.conf.resolve() if arguments.conf else None
    try:
        if arguments.target == MODEL:
            tofino_model.programs()
        target = target_of(arguments.target, conf)
        network.enter()
        log_dir = arguments.log_dir or ROOT / "build" / "ptf" / arguments.target
        return _run(target, arguments.tests, log_dir, conf)
    except (OSError, SwitchError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except grpc.RpcError as error:
        print(f"the switch refused the pipeline: {error.details()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(target: Target, tests: list[str], log_dir: Path, conf: Path | None) -> int:
    for port in PORTS:
        network.add_pair(f"switch{port}", f"test{port}")
    interfaces = {port: f"switch{port}" for port in PORTS}
    with start_switch(target.name, interfaces, log_dir, conf=conf) as address:
        with P4Runtime(address, target.schema, target.device_id) as switch:
            switch.push_pipeline()
        output = _ptf(target.name, tests, address, log_dir, conf)
    passed, failed = _count(output)
    skipped = _skipped(output)
    beside = f", {skipped} skipped" if skipped else ""
    print(f"{passed - skipped} passed, {failed} failed{beside} (target {target.name})")
    return 0 if passed and not failed else 1


def _ptf(target: str, tests: list[str], address: str, log_dir: Path, conf: Path | None) -> str:
    """Run ptf, show what it says as it says it, and return it."""
    interfaces = [word for port in PORTS for word in ("-i", f"{port}@test{port}")]
    log = log_dir / "ptf.log"
    log.unlink(missing_ok=True)  # ptf would append to that of the last run.
    command = [
        *(sys.executable, "-u", str(Path(sys.executable).with_name("ptf"))),
        *("--test-dir", str(ROOT / "ptf_tests" / "specs"), *interfaces),
        *(
            "--test-params",
            f"target='{target}';address='{address}'" + (f";conf='{conf}'" if conf else ""),
            "--qlen",
            "20000",
            "--disable-vxlan",
            "--disable-geneve",
        ),
        *("--disable-erspan", "--disable-mpls", "--disable-nvgre", "--quiet"),
        *("--test-case-timeout", str(TEST_SECONDS)),
        *("--log-file", str(log), *tests),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        preexec_fn=network.die_with_parent,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                said.append(line)
        except BaseException:
            process.kill()
            raise
    return "".join(said)


def _count(output: str) -> tuple[int, int]:
    """Return how many tests passed and failed; a run that did not end counts as one that failed."""
    ran = re.search(r"^Ran (\d+) tests? in", output, re.MULTILINE)
    if ran is None:
        return 0, 1
    failed = sum(int(n) for n in re.findall(r"\b(?:failures|errors)=(\d+)", output))
    return int(ran[1]) - failed, failed


def _skipped(output: str) -> int:
    """Return how many tests were none for the target."""
    return sum(int(n) for n in re.findall(r"\bskipped=(\d+)", output))


if __name__ == "__main__":
    sys.exit(main())
