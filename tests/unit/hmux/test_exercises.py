"""The exercises of docs/from-bmv2-to-tofino.md are of the program as it is."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PATCHES = sorted((ROOT / "docs" / "exercises").glob("*.patch"))


@pytest.mark.skipif(shutil.which("git") is None, reason="git, which applies patches, is not on PATH")
@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_a_solution_applies_to_the_program(patch: Path, tmp_path: Path):
    (tmp_path / "p4src").mkdir()
    program = tmp_path / "p4src" / "hmux_tna.p4"
    shutil.copy(ROOT / "p4src" / "hmux_tna.p4", program)
    before = program.read_text()
    run = subprocess.run(
        ["git", "apply", str(patch)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert program.read_text() != before
