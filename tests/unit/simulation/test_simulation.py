"""Latency, the figures and the commands end to end on a data centre of a few switches."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from controller.engine import Assignment, FatTreeShape, Greedy, Topology, assign
from controller.simulation import cli, executors, latency, runner
from controller.simulation.cli import simulate
from controller.simulation.consistency import SCHEMES
from controller.simulation.figures import assumptions, figures
from controller.simulation.figures.base import Ended, estimate
from controller.simulation.profile import TBPS, Profile, Source
from controller.simulation.scale import Scale, sized, small
from controller.simulation.settings import with_settings
from controller.simulation.tasks import Ananta, Describe, Keep, Place, strategy
from controller.simulation.workload import generate
from duet_p4.results import to_json

TREE = Topology.fat_tree(FatTreeShape(3, 3, 2, 2))
NAMES = [
    "trace",
    "smuxes",
    "latency",
    "random",
    "failures",
    "migration",
    "assumptions",
    "consistency",
    "elephants",
    "rubik",
    "shuffle",
]


@pytest.fixture(scope="module")
def placed() -> Assignment:
    profile = Profile(vips=120, intervals=2, reference_bps=0.015 * TBPS, largest_share=0.05, dips_median=30.0)
    return assign(TREE, generate(TREE, profile, 4).steady(), Greedy())


def tiny(**changes: Any) -> Scale:
    scale = sized(small(), FatTreeShape(3, 3, 2, 2), 40)
    return replace(
        scale,
        seeds=(1, 2),
        churn_seeds=2,
        assumption_seeds=1,
        curve_seeds=1,
        samples=5,
        link_samples=1,
        **changes,
    )


def test_an_smux_adds_what_the_talk_measured_and_straight_lines_between() -> None:
    found = latency.smux_us(np.array([0.0, 1 / 3, 2 / 3, 1.0, 1.25, 1.5, 9.0]))
    middle = (230 + 14_000) / 2
    assert found == pytest.approx([200, 200, 215, 230, middle, 14_000, 14_000])
    with pytest.raises(ValueError, match="-1"):
        latency.smux_us(-1.0)


def test_the_way_by_an_hmux_is_never_shorter_and_direct_ways_are_averages(placed: Assignment) -> None:
    journey = latency.journeys(placed)
    demands = placed.demands
    hops = np.array(
        [
            [0 if u == v else 2 if u // 3 == v // 3 else 4 for v in range(TREE.switch_count)]
            for u in range(TREE.switch_count)
        ]
    )
    owners = demands.owners()
    rows = np.repeat(np.arange(demands.row_count), np.diff(demands.dip_start))
    for vip in range(0, demands.vip_count, 7):
        at = slice(demands.source_start[vip], demands.source_start[vip + 1])
        mine = owners[rows] == vip
        expected = 2.0 * demands.internet[vip]
        for source, share in zip(demands.source_switch[at], demands.source_share[at], strict=True):
            expected += share * (hops[source, demands.dip_switch[mine]] * demands.dip_share[mine]).sum()
        assert journey.direct[vip] == pytest.approx(expected)
    assert (journey.by_mux >= journey.direct - 1e-9).all()


def test_quantiles_follow_the_weights() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 8.0, 1.0])
    assert [latency.weighted_quantile(values, weights, q) for q in (0.5, 0.85, 1.0)] == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="no traffic"):
        latency.weighted_quantile(values, weights * 0, 0.5)


def test_confidence_intervals_are_students() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.ci95, found.n) == (2.0, pytest.approx(4.303 / 3**0.5, rel=1e-3), 3)
    assert estimate([5.0]).ci95 == 0.0


def test_strategies_have_names_and_the_papers_end_at_the_first_that_does_not_fit() -> None:
    assert type(strategy("duet", 1)).__name__ == "Terminating"
    assert type(strategy("duet-skip", 1)).__name__ == "Mru"
    assert type(strategy("lightest-stop", 1)).__name__ == "Terminating"
    assert strategy("near-ties@0.05", 1).epsilon == 0.05  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no strategy 'fastest'; there are duet, lightest"):
        strategy("fastest", 1)


def test_settings_are_changed_by_path_and_wrong_ones_named() -> None:
    scale = with_settings(small(), (("profile.largest_share", "0.04"), ("delta", "0.1"), ("shape.tors", "5")))
    assert (scale.profile.largest_share, scale.delta, scale.shape.tors) == (0.04, 0.1, 5)
    assert with_settings(small(), (("profile.packet_bytes", "64:1500"),)).profile.packet_bytes == (
        64.0,
        1500.0,
    )
    for path, text, said in (
        ("profile.biggest", "1", "there is no setting 'profile.biggest': 'biggest' is none of vips"),
        ("profile.vips", "many", "profile.vips: 'many' is no whole number"),
        ("profile.largest_share", "2", "largest_share must be within 0..1, not 2"),
        ("delta.x", "1", "there is no setting 'delta.x'"),
        ("trace_file", "x", "trace_file cannot be set by text"),
    ):
        with pytest.raises(ValueError, match=said.replace(".", r"\.")):
            with_settings(small(), ((path, text),))


def test_every_parameter_that_is_said_to_be_swept_is_swept() -> None:
    swept = {one.name for one in fields(Profile) if one.metadata["source"] is Source.SWEPT}
    changed = {path for variant in assumptions.VARIANTS for path, _ in variant.settings}
    assert {f"profile.{name}" for name in swept} <= changed


def test_an_assignment_that_leaves_much_to_the_smuxes_ended_early() -> None:
    placed = Place(1, 10.0, "duet").compute(tiny())
    found = [replace(placed, hmux_share=share, routes=routes) for share, routes in ((0.995, 9), (0.7, 3))]
    assert Ended.among((4, 5), found) == [Ended(5, 3, 0.7)]


def test_every_figure_is_a_module_of_one_shape() -> None:
    assert list(figures()) == NAMES
    for figure in figures().values():
        assert figure.paper
        assert figure.tasks(tiny())


TINY = [
    "--containers",
    "3",
    "--tors",
    "3",
    "--aggs",
    "2",
    "--cores-per-agg",
    "2",
    "--vips",
    "40",
    "--seeds",
    "2",
]
SHORT = [
    "--set",
    "churn_seeds=2",
    "--set",
    "assumption_seeds=1",
    "--set",
    "curve_seeds=1",
    "--set",
    "profile.intervals=3",
]
CHEAP = ["--set", "samples=5", "--set", "link_samples=1"]


def test_all_figures_of_a_tiny_data_centre_and_a_resumed_run(tmp_path: Path) -> None:
    cli = CliRunner()
    arguments = [
        "all",
        "--scale",
        "small",
        *TINY,
        *SHORT,
        *CHEAP,
        "--jobs",
        "1",
        "--json",
        "--out",
        str(tmp_path),
    ]
    first = cli.invoke(simulate, arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    summary = json.loads(first.stdout.splitlines()[-1])
    assert list(summary) == NAMES
    (folder,) = tmp_path.iterdir()
    for figure in figures().values():
        for suffix in ("png", "svg"):
            assert (folder / f"{figure.file}.{suffix}").stat().st_size > 5000
        record = json.loads((folder / f"{figure.name}.json").read_text())
        assert record["paper"]
        assert record["headline"]
        assert record["cpu_s"] > 0
        assert (folder / f"{figure.name}.csv").read_text().count("\n") > 2
    assert set(summary["smuxes"]["ananta_over_duet"]) == set(summary["smuxes"]["duet_share"]) == {"3.6", "10"}
    for one in summary["smuxes"]["reached"]:
        assert 0 <= one["bound_share"]["mean"] <= one["balanced_worst_share"]["mean"] + 1e-9
        assert one["duet_share"]["mean"] <= one["duet_worst_share"]["mean"] + 1e-9
        assert one["hmux_share"]["mean"] + one["unplaced"]["mean"] == pytest.approx(1)
    took = json.loads((folder / "migration.json").read_text())
    assert took["command"]["computed"] == len(list((folder / "raw").iterdir()))
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "raw").iterdir()}
    gone = "migration-10T-sticky-seed1.json"
    (folder / "raw" / gone).unlink()
    again = cli.invoke(simulate, ["migration", *arguments[1:]], catch_exceptions=False)
    redone = {path.name for path in (folder / "raw").iterdir() if path.stat().st_mtime_ns != kept[path.name]}
    assert redone == {gone}
    again_took = json.loads((folder / "migration.json").read_text())
    assert again_took["command"]["computed"] == 1
    each = [json.loads(path.read_text())["cpu_s"] for path in (folder / "raw").glob("migration-*seed*")]
    assert 0 < again_took["cpu_s"] <= sum(each) + 1e-9
    for one, other in zip(
        json.loads(again.stdout.splitlines()[-1])["strategies"],
        summary["migration"]["strategies"],
        strict=True,
    ):
        assert one["shuffled_share"] == other["shuffled_share"]


def test_two_set_ups_never_meet_in_one_folder(tmp_path: Path) -> None:
    cli = CliRunner()
    for share in ("0.04", "0.08"):
        arguments = [
            "consistency",
            "--scale",
            "small",
            "--set",
            "churn_seeds=1",
            "--set",
            f"profile.largest_share={share}",
            "--out",
            str(tmp_path),
        ]
        assert cli.invoke(simulate, [*arguments, "--jobs", "1"], catch_exceptions=False).exit_code == 0
    found = [json.loads((folder / "consistency.json").read_text()) for folder in tmp_path.iterdir()]
    assert {record["scale"]["profile"]["largest_share"] for record in found} == {0.04, 0.08}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--containers", "0"], "at least one of containers, not 0"),
        (["--tors", "-2"], "at least one of tors, not -2"),
        (["--set", "profile.vips"], "'profile.vips' is not of the form PATH=VALUE"),
        (["--set", "background=0.9"], "background must be within 0..0.8, not 0.9"),
        (["--dask", "tcp://127.0.0.1:9"], "no Dask scheduler at tcp://127.0.0.1:9"),
    ],
)
def test_what_makes_no_set_up_is_refused(
    tmp_path: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 1)
    result = CliRunner().invoke(simulate, ["trace", *arguments, "--out", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert said in result.output
    assert not (tmp_path / "x").exists()


def test_a_bad_trace_file_is_refused_before_anything_runs(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("duet-trace 1\nintervals 1 600\nvip 10.0.0.1 sources tor1.1:1 dips\n")
    result = CliRunner().invoke(simulate, ["smuxes", "--trace", str(bad), "--out", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert "bad.txt:3: VIP 10.0.0.1 has no DIPs" in result.output
    assert not (tmp_path / "x").exists()


def test_a_sweep_is_one_tidy_table_in_two_formats_and_a_plot_per_pair(tmp_path: Path) -> None:
    from pyarrow import parquet

    arguments = ["sweep", "--scale", "small", *TINY, "--jobs", "1", "--out", str(tmp_path), "--json"]
    arguments += [
        "--set",
        "profile.largest_share=0.02,0.08",
        "--set",
        "strategy=duet,balanced",
        "--set",
        "tbps=2.5",
    ]
    result = CliRunner().invoke(simulate, arguments, catch_exceptions=False)
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert len(rows) == 2 * 2 * 1 * 2
    keys = {(row["profile.largest_share"], row["strategy"], row["seed"]) for row in rows}
    assert len(keys) == 8
    (table,) = tmp_path.glob("*/*/sweep.parquet")
    read = parquet.read_table(table).to_pylist()
    assert read == rows
    plots = {path.stem for path in table.parent.glob("*.png")}
    assert {"profile.largest_share-smuxes", "strategy-hmux_share"} <= plots
    assert len(plots) == 2 * 5
    one = next(row for row in rows if row["strategy"] == "balanced" and row["seed"] == 1)
    scale = with_settings(tiny(), (("profile.largest_share", str(one["profile.largest_share"])),))
    again = Place(1, 2.5, "balanced").compute(replace(scale, samples=100))
    assert again.hmux_share == one["hmux_share"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("profile.largest=1", "no setting 'profile.largest'"),
        ("strategy=duet,fastest", "no strategy 'fastest'"),
        ("tbps=-1", "tbps must be positive, not -1"),
        ("tbps", "'tbps' is not of the form PATH=VALUE,VALUE"),
        ("profile.vips=10,none", "profile.vips: 'none' is no whole number"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(tmp_path: Path, setting: str, said: str) -> None:
    result = CliRunner().invoke(simulate, ["sweep", "--set", setting, "--out", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert said in result.output
    assert not (tmp_path / "x").exists()


def quiet(task: object, kept: bool) -> None:
    pass


def test_tasks_run_on_anything_that_is_an_executor(tmp_path: Path) -> None:
    tasks = [Keep(seed, "Beamer-like") for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        found = runner.run(tiny(), tasks, tmp_path, pool, quiet)
    assert [found[task] for task in tasks] == [task.compute(tiny()) for task in tasks]


def test_tasks_that_share_a_trace_follow_each_other() -> None:
    other = (("profile.largest_share", "0.08"),)
    tasks = [
        Place(seed, 10.0, name, settings)
        for name in ("duet", "balanced")
        for settings in ((), other)
        for seed in (1, 2)
    ]
    tasks += [Ananta(seed, 10.0) for seed in (1, 2)]
    order = runner._ordered([*tasks, Keep(1, "Maglev")])
    traces = [(task.seed, getattr(task, "settings", ())) for task in order]
    assert len(order) == len(tasks) + 1
    assert sum(one != following for one, following in itertools.pairwise(traces)) == len(set(traces)) - 1


def test_more_seeds_make_no_other_set_up() -> None:
    rest = (Path("x"), None, 1, None, None, None, None, None, None, None)
    same, *_ = cli._chosen("small", *rest, ("assumption_seeds=1", "bound_seeds=2"))
    other, *_ = cli._chosen("small", *rest, ("delta=0.1",))
    assert (same.name, same.assumption_seeds, other.name) == ("small", 1, "custom")
    assert runner.digest(same) == runner.digest(small()) != runner.digest(other)


def test_a_worker_with_other_code_is_refused_by_name() -> None:
    with pytest.raises(runner.VersionSkewError, match="install the same version of duet-p4, numpy"):
        runner.compute("0" * 64, tiny(), Describe(1))
    assert json.loads(runner.compute(runner.code(), tiny(), Describe(1)).text)["vips"]


def test_a_result_file_that_is_cut_off_is_computed_again(tmp_path: Path) -> None:
    task = Keep(1, "Beamer-like")
    heard: list[bool] = []
    for text in (None, "{", "{}", to_json({"digest": "other", "result": {}})):
        if text is not None:
            (tmp_path / "raw" / f"{task.slug}.json").write_text(text)
        runner.run(tiny(), [task], tmp_path, None, lambda _, kept: heard.append(kept))
    runner.run(tiny(), [task], tmp_path, None, lambda _, kept: heard.append(kept))
    assert heard == [False, False, False, False, True]


@pytest.fixture
def cluster() -> Iterator[str]:
    """A Dask scheduler and two workers, each a process of its own, on loopback."""
    from distributed import LocalCluster

    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", silence_logs=50
    ) as workers:
        yield workers.scheduler_address


def test_a_cluster_of_dask_workers_computes_the_same_and_a_second_run_nothing(
    tmp_path: Path, cluster: str
) -> None:
    cli = CliRunner()
    common = ["consistency", "--scale", "small", *TINY, *SHORT, "--json"]
    here = cli.invoke(
        simulate, [*common, "--jobs", "1", "--out", str(tmp_path / "here")], catch_exceptions=False
    )
    arguments = [*common, "--dask", cluster, "--out", str(tmp_path / "there")]
    there = cli.invoke(simulate, arguments, catch_exceptions=False)
    summaries = [json.loads(one.stdout.splitlines()[-1]) for one in (here, there)]
    assert summaries[0] == summaries[1]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("there/*/raw/*.json")}
    assert len(files) == 2 * len(SCHEMES)
    cli.invoke(simulate, arguments, catch_exceptions=False)
    assert all(path.stat().st_mtime_ns == at for path, at in files.items())


def test_other_commands_need_no_scipy() -> None:
    code = "import sys; import mininet_topos.cli; assert not {'scipy', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
