"""Builds of BMv2 differ in what they can do, which is found out before it is asked of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from duet_p4 import bmv2


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    bmv2.has.cache_clear()
    yield tmp_path
    bmv2.has.cache_clear()


def build(path: Path, *options: str) -> None:
    """Put a BMv2 on PATH that has options."""
    program = path / bmv2.COMMAND
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 1.15.5 || echo "{" ".join(options)}"\n')
    program.chmod(0o755)


def test_a_build_with_thrift_gets_a_port_of_its_own_for_it(path: Path) -> None:
    build(path, "--thrift-port", "--log-level")
    assert bmv2.version() == "1.15.5"
    option, port = bmv2.thrift_port()
    assert option == "--thrift-port" and 1024 < int(port) < 65536
    assert bmv2.without_shell() == "simple_switch_CLI is not on PATH"
    (path / bmv2.SHELL).symlink_to(path / bmv2.COMMAND)
    assert bmv2.without_shell() is None


def test_a_build_without_thrift_is_not_asked_for_it(path: Path) -> None:
    build(path, "--log-level")
    (path / bmv2.SHELL).symlink_to(path / bmv2.COMMAND)
    assert bmv2.is_installed() and bmv2.thrift_port() == []
    assert bmv2.without_shell() == (
        "simple_switch_grpc on PATH was built without Thrift, which simple_switch_CLI talks"
    )


def test_without_bmv2_that_is_what_is_missing(path: Path) -> None:
    assert not bmv2.is_installed() and bmv2.version() is None
    assert bmv2.without_shell() == bmv2.MISSING == "simple_switch_grpc is not on PATH"
