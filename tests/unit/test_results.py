import json
import math
import socket
from pathlib import Path

import numpy as np
import pytest

from duet_p4 import results


def test_machine_names_the_hardware_but_not_the_host() -> None:
    described = json.dumps(results.machine())
    assert results.machine()["cores"] >= 1
    assert socket.gethostname() not in described
    assert str(Path.home()) not in described or str(Path.home()) == "/"


def test_json_spells_out_numpy_and_turns_nan_into_null(tmp_path: Path) -> None:
    path = results.write_json(
        tmp_path / "deep" / "a.json", {"x": np.float32(1.5), "y": np.arange(2), "z": math.nan}
    )
    assert json.loads(path.read_text()) == {"x": 1.5, "y": [0, 1], "z": None}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_csv_has_a_header_and_refuses_a_row_with_another_key(tmp_path: Path) -> None:
    path = results.write_csv(tmp_path / "a.csv", [{"a": 1, "b": np.float64(2)}])
    assert path.read_text() == "a,b\n1,2.0\n"
    with pytest.raises(ValueError, match="c"):
        results.write_csv(tmp_path / "b.csv", [{"a": 1}, {"c": 2}])
    assert not (tmp_path / "b.csv").exists()
    with pytest.raises(ValueError, match=r"empty\.csv"):
        results.write_csv(tmp_path / "empty.csv", [])


def test_the_same_data_gives_the_same_figure_bytes(tmp_path: Path) -> None:
    saved = []
    for name in ("a", "b"):
        fig, axes = results.figure()
        axes.plot([1, 2], [3, 4], label="ours")
        results.paper_line(axes, 3.5, "3.5")
        axes.legend()
        saved.append(results.save_figure(fig, tmp_path / f"{name}.png"))
    for first, second in zip(*saved, strict=True):
        assert first.read_bytes() == second.read_bytes()
