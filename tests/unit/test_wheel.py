"""What a wheel brings along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from duet_p4.bpf.compile import SHIPPED, compile_object
from duet_p4.xdp_switch.counters import rows
from mininet_topos import shipped

CLONE = Path(__file__).parents[2]
LIST = """
from setuptools import Distribution
made = Distribution({"script_name": "setup.py"})
made.parse_config_files()
command = made.get_command_obj("build_py")
command.ensure_finalized()
print(*command.get_outputs(include_bytecode=False), sep="\\n")
"""


def test_a_wheel_has_all_that_the_packages_have() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIST], cwd=CLONE, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    listed = done.stdout.split()
    brought = {Path(*Path(line).parts[2:]) for line in listed}  # without build/lib
    packages = [CLONE / name for name in ("duet_p4", "controller", "mininet_topos")]
    there = {path.relative_to(CLONE) for package in packages for path in package.rglob("*") if path.is_file()}
    compiled = [path for path in (CLONE / "p4src" / "build").rglob("*") if path.is_file()]
    there |= {Path("duet_p4", path.relative_to(CLONE)) for path in compiled}
    missing = {path for path in there if "__pycache__" not in path.parts and path.name[0] != "."} - brought
    assert not missing


def test_set_up_has_compiled_every_object_that_a_testbed_loads() -> None:
    made = {job() for job in shipped.programs([rows()], compile_object)}
    assert {path.parent for path in made} == {SHIPPED}
