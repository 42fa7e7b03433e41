"""The packet tests of ptf_tests/, as `make ptf` runs them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from duet_p4 import bmv2

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def start(*arguments: str, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ptf_tests", *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_all(target: str) -> None:
    command = [sys.executable, "-m", "ptf_tests", "--target", target]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f" passed, 0 failed (target {target})" in result.stdout.splitlines()[-1]


def descendants(pid: int) -> set[int]:
    children = {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return children.union(*(descendants(child) for child in children)) if children else set()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_behaviour_holds_on_xdp():
    run_all("xdp")


@pytest.mark.skipif(not bmv2.is_installed(), reason=bmv2.MISSING)
def test_every_behaviour_holds_on_bmv2():
    run_all("bmv2")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_behind(end, tmp_path):
    process = start("--target", "xdp", temporary=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.rstrip().endswith("ok"):
            break
    else:
        pytest.fail("no test ran")
    family = descendants(process.pid)
    assert len(family) >= 2, "the switch and ptf should run"
    process.send_signal(end)
    process.stdout.close()
    assert process.wait(timeout=20) != 0
    deadline = time.monotonic() + 5
    while left := [pid for pid in family if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.02)
    assert not list(tmp_path.iterdir())


def test_a_switch_that_cannot_start_is_said():
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    if shutil.which(bmv2.COMMAND, path=environment["PATH"]):
        pytest.skip("simple_switch_grpc is in a system folder")
    result = subprocess.run(
        [sys.executable, "-m", "ptf_tests", "--target", "bmv2"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert bmv2.MISSING in result.stderr
