"""The `duet` command."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from mininet_topos import cli


def test_help_lists_every_command_without_importing_it() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from mininet_topos import cli; "
        "print(CliRunner().invoke(cli.main, ['--help']).output); "
        "print([m for m in sys.modules if m in ('pydantic', 'mininet', 'numpy', 'fastapi', 'networkx')])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for name, command in cli.main.lazy.items():
        assert name in output
        assert command.summary.split()[0] in output
    assert output.strip().endswith("[]"), "help imports what it need not"


@pytest.mark.parametrize("name", sorted(cli.main.lazy))
def test_every_command_loads_and_has_help(name: str) -> None:
    command = cli.main.get_command(click.Context(cli.main), name)
    assert command is not None
    assert CliRunner().invoke(cli.main, [name, "--help"]).exit_code == 0


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli.main, ["fly"])
    assert result.exit_code == 2
    assert "No such command 'fly'" in result.output


def test_targets_are_written_as_they_are_everywhere_else() -> None:
    shown = CliRunner().invoke(cli.main, ["testbed", "up", "--help"]).output
    assert "[xdp|bmv2]" in shown
    assert "[xdp|scapy]" in shown
