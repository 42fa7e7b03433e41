"""Runs the vendor's model of a Tofino and its driver, which serves P4Runtime, from PATH.

Neither is ours, nor has been tried here: their options are those that p4c's runner of packet tests and
open-p4studio's scripts give them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ptf_tests.targets import FIRST_DEVICE_PORT, MODEL

DRIVER = "bf_switchd"
CHIP_TYPE = 5
"""The model's name of a Tofino 2."""


def programs() -> tuple[str, str]:
    """Return where the model and the driver are. Raises FileNotFoundError where one is not on PATH."""
    found = []
    for program in (MODEL, DRIVER):
        path = shutil.which(program)
        if path is None:
            raise FileNotFoundError(
                f"{program} is not on PATH: docs/tofino.md says where to get it, or test the xdp target"
            )
        found.append(path)
    return found[0], found[1]


def commands(ports: Mapping[int, str], conf: Path, log_dir: Path, address: str) -> list[list[str]]:
    """Return what to run: the model, and the driver, which serves P4Runtime at `address`.

    The model takes the ports' interfaces from a file, which is written beside the logs. Raises
    FileNotFoundError, as `programs` does.
    """
    model, driver = programs()
    port_map = log_dir / "ports.json"
    interfaces = [
        {"device_port": FIRST_DEVICE_PORT - 1 + number, "if": name} for number, name in ports.items()
    ]
    port_map.write_text(json.dumps({"PortToIf": interfaces}))
    return [
        [
            *(model, "--p4-target-config", str(conf), "-f", str(port_map), f"--chip-type={CHIP_TYPE}"),
            "--logs-disable",
        ],
        [
            # The driver is installed as PREFIX/bin/bf_switchd, and asks for PREFIX.
            *(driver, "--install-dir", str(Path(driver).resolve().parents[1]), "--conf-file", str(conf)),
            *("--skip-p4", "--p4rt-server", address, "--background"),
        ],
    ]
