import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_cli_and_rest_references_are_what_the_code_says() -> None:
    command = [sys.executable, str(ROOT / "docs" / "reference.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
