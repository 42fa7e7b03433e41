"""The `duet` command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import controller.cli.session
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


def test_what_only_root_uses_is_found_with_a_users_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    CliRunner().invoke(cli.main, ["bench"])
    assert os.environ["PATH"] == "/usr/bin:/bin:/usr/sbin:/sbin"


def test_make_bench_runs_every_benchmark_there_is() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\nbench:")[1].split("\n\n")[0]
    assert sorted(re.findall(r"\$\(DUET\) bench (\w+) --out", recipe)) == sorted(cli.bench.lazy)
    for name in cli.bench.lazy:
        assert "--out" in CliRunner().invoke(cli.main, ["bench", name, "--help"]).output


@pytest.mark.parametrize("command", ["vip list", "assignment show", "events", "status"])
def test_the_testbed_of_the_shell_is_the_default(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller.cli.session, "RUN", tmp_path / "paper")
    monkeypatch.setenv("DUET_TESTBED", "second")
    result = CliRunner().invoke(cli.main, command.split())
    assert result.exit_code == 1
    assert str(tmp_path / "second") in result.output
    named = CliRunner().invoke(cli.main, [*command.split(), "--testbed", "third"])
    assert str(tmp_path / "third") in named.output
