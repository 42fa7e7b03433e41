"""What ps and top show a process as."""

import subprocess
import sys

import pytest

_SHOW = """
import sys
from pathlib import Path
from duet_p4.title import set_title
set_title("tor1.agent-of-a-long-name", ["duet", "tor1", "agent", *sys.argv[1:]])
print(Path("/proc/self/comm").read_text().strip())
print(Path("/proc/self/cmdline").read_bytes().decode().rstrip("\\0").replace("\\0", " "))
"""


@pytest.mark.parametrize("more", [[], ["--config", "x" * 3000]])
def test_a_process_is_shown_by_what_it_is(more: list[str]) -> None:
    result = subprocess.run([sys.executable, "-c", _SHOW, *more], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["tor1.agent-of-a", " ".join(["duet", "tor1", "agent", *more])]
