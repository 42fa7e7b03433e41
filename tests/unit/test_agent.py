"""How every agent starts: its configuration, its options, and what it says where it cannot."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from duet_p4 import agent
from duet_p4.bpf import BpfError
from duet_p4.identity import Authority, CredentialsError, Identity, Role

pytestmark = pytest.mark.usefixtures("restored_root")


class Config(agent.AgentConfig):
    role = Role.SERVER

    mode: str = "slow"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "node1.json"
    path.write_text(
        f'{{"name": "node1", "state_dir": "{tmp_path}/state/node1", "listen": "127.0.0.1", "insecure": true}}'
    )
    return path


class Started:
    """An agent that notes the configuration it ran with, and fails where it is told to."""

    def __init__(self, path: Path, *options: str, failure: Exception | None = None) -> None:
        self._failure = failure
        self.configs: list[Config] = []
        parser = argparse.ArgumentParser()
        parser.add_argument("--mode")
        self.status = agent.main(parser, ["--config", str(path), *options], Config, self._run)

    def _run(self, config: Config) -> None:
        self.configs.append(config)
        if self._failure:
            raise self._failure


def test_an_agent_runs_as_configured_with_a_folder_for_its_state(path: Path) -> None:
    started = Started(path)
    assert started.status == 0
    (config,) = started.configs
    assert (config.name, config.port, config.mode) == ("node1", 8443, "slow")
    assert config.state_dir.is_dir()
    assert config.identify() is None and config.access() is None


def test_an_option_stands_in_place_of_a_field(path: Path) -> None:
    assert Started(path, "--mode", "fast").configs[0].mode == "fast"


def test_what_is_wrong_with_the_configuration_is_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text('{"name": "node1"}')
    started = Started(path)
    assert (started.status, started.configs) == (2, [])
    assert f"{path} holds no valid Config" in capsys.readouterr().err
    assert Started(path.with_name("absent.json")).status == 2
    assert "absent.json" in capsys.readouterr().err


@pytest.mark.parametrize("failure", [OSError("no interface eth9"), BpfError("refused"), ValueError("no")])
def test_an_agent_that_fails_says_why_in_one_line(
    path: Path, failure: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Started(path, failure=failure).status == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "ERROR" in line and line.endswith(f"node1 agent: {failure}"), line


def test_an_agent_without_credentials_does_not_start_unless_told_to_be_insecure(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(path.read_text().replace(', "insecure": true', ""))
    assert (Started(path).status, Started(path).configs) == (2, [])
    assert "it has no credentials" in capsys.readouterr().err


def test_an_agent_takes_nobody_elses_credentials(path: Path, tmp_path: Path) -> None:
    (config,) = Started(path).configs
    authority = Authority()
    for identity in (Identity(Role.SERVER, "node2"), Identity(Role.SWITCH, "node1")):
        authority.issue(tmp_path / "keys", identity)
        stolen = config.model_copy(update={"credentials": tmp_path / "keys", "insecure": False})
        with pytest.raises(CredentialsError, match=f"is of {identity}, not of server node1"):
            stolen.identify()
