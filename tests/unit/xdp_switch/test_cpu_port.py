"""The CPU port where the kernel has no IPv6, and where it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from duet_p4.xdp_switch import cpu_port


def test_a_kernel_without_ipv6_has_nothing_to_silence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu_port, "_IPV6", tmp_path / "not there")
    cpu_port._silence("p4cpu0")


def test_an_interface_that_cannot_be_silenced_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu_port, "_IPV6", tmp_path)
    (tmp_path / "p4cpu0" / "disable_ipv6").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        cpu_port._silence("p4cpu0")
