"""What is said before a testbed is built on a machine that cannot have it."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from mininet_topos.testbed import folder as folder_module
from mininet_topos.testbed import preflight
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.plan import Plan, Target


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(folder_module, "ROOT", tmp_path)
    return Folder("dt")


def said(folder: Folder, plan: Plan = Plan()) -> str:  # noqa: B008
    try:
        preflight.check(folder, plan)
    except TestbedError as error:
        return str(error)
    return ""


def test_a_name_in_use(folder: Folder) -> None:
    folder.path.mkdir()
    assert "there is a testbed named 'dt' already: `duet testbed down --name dt` removes it" in said(folder)


def test_an_old_kernel(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "5.4.0-42-generic")
    assert "kernel 5.4.0-42-generic is too old" in said(folder)


def test_the_kernel_of_debian_12(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-56-amd64")
    assert "kernel" not in said(folder)


def test_a_missing_program_and_the_package_that_has_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **kw: None if name == "bird" else found(name, **kw))
    assert "bird is not on PATH: install the package bird2" in said(folder)


def test_bmv2_that_is_not_there(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **kw: None if name == "simple_switch_grpc" else found(name, **kw)
    )
    assert "simple_switch_grpc" not in said(folder)
    assert "simple_switch_grpc is not on PATH" in said(folder, Plan(target=Target.BMV2))


def test_missing_capabilities(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self: "CapEff:\t0000000000000000\n" if self.name == "status" else read(self),
    )
    assert "no CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN" in said(folder)


def test_everything_that_is_missing_is_said_at_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.path.mkdir()
    monkeypatch.setattr(platform, "release", lambda: "5.4.0")
    monkeypatch.setattr(shutil, "which", lambda name, **kw: None)
    text = said(folder)
    assert text.startswith("the testbed cannot start:\n")
    assert text.count("\n  - ") >= 4
