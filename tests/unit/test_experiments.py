"""What experiments make of several bring-ups, and what their figures say beside the numbers."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from duet_p4 import results
from duet_p4.results import to_json
from mininet_topos.experiments import breakdown, capacity, failover, failures, migration
from mininet_topos.experiments.cli import experiment
from mininet_topos.experiments.damage import DAMAGES
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import brought_up, over_bringups, told


def samples(targets: int, rounds: int = 400, lost: float = 0.0) -> Samples:
    due = 100 + np.arange(rounds) * 0.003
    sent = np.repeat((due + 1e-4)[:, None], targets, axis=1)
    received = sent + 5e-4
    received[: int(lost * rounds)] = np.nan
    return Samples(tuple(IPv4Address("10.0.0.1") + n for n in range(targets)), 0.003, due, sent, received)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures, in place of files."""
    found: list[Any] = []
    monkeypatch.setattr(results, "save_figure", lambda figure, path: found.append(figure))
    return found


def noted(drawn: list[Any]) -> str:
    (figure,) = drawn
    return str(figure.get_supxlabel()).replace("\n", " ")


def test_intervals_are_over_the_medians_of_the_bringups() -> None:
    found = over_bringups([[1, 2, 9], [4], [6, 6]])
    assert (found.mean, found.n) == (4, 3)
    assert found == results.estimate([2, 4, 6])
    assert told(found) == f"4.0±{found.ci95:.1f} ms"
    assert told(results.estimate([3])) == "3.0 ms"
    said: list[str] = []
    assert brought_up(2, said.append, lambda: len(said)) == [1, 2]
    assert said == ["bring-up 1 of 2", "bring-up 2 of 2"]


def test_failover_says_its_failure_model_and_pools_runs_of_all_bringups(
    tmp_path: Path, drawn: list[Any]
) -> None:
    shown = (samples(10), 100.5)
    part = failover.Breakdown(2, 3, 9)
    found = [
        failover.Measured([4.0, 6.0], [4.0, 9.0], [part, part], 0, 1, [0.1], [0.2], [], shown),
        failover.Measured([8.0, 30.0], [11.0, 30.0], [part, part], 2, 0, [0.2], [0.4], [], shown),
    ]
    summary = failover.summary(found)
    assert (summary["variant"], summary["vips_that_fall"], summary["loaded"]) == ("", 1, False)
    assert summary["all_back_ms_median"] == 10
    assert (summary["runs"], summary["bringups"], summary["discarded"], summary["others_lost"]) == (
        4,
        2,
        1,
        2,
    )
    assert summary["outage_ms_median"] == 7
    assert summary["outage_ms_over_bringups"].mean == 12
    failover._plot(tmp_path, found)
    assert noted(drawn).startswith("Failure model: the switch loses its power")
    assert "0.40 ms late" in noted(drawn)
    to_json(summary)


def test_a_run_whose_close_prober_was_late_about_the_failure_is_not_trusted() -> None:
    part, well, failed_at = failover.Breakdown(2, 3, 9), samples(10), 100.5
    assert not failover._stalled(well, (failed_at, samples(1), part))
    late = samples(1)
    late.sent[np.searchsorted(late.due, failed_at + 0.02)] += 0.0015
    assert failover._stalled(well, (failed_at, late, part))
    assert not failover._stalled(well, (failed_at + 0.1, late, part)), "long before the failure"
    late.sent[:10] += 0.0015
    assert failover._stalled(well, (failed_at + 0.1, late, part)), "often"


def test_a_variant_of_failover_says_in_summary_and_figure_what_it_is(
    tmp_path: Path, drawn: list[Any]
) -> None:
    variant = failover.Variant(150, loaded=True)
    shown, part = (samples(10), 100.5), failover.Breakdown(2, 3, 9)
    found = [failover.Measured([0.2], [0.4], [part], 0, 0, [0.1], [0.1], [], shown)]
    summary = failover.summary(found, variant)
    assert (summary["variant"], summary["vips_that_fall"], summary["loaded"]) == (
        "150-vips-loaded",
        150,
        True,
    )
    failover._plot(tmp_path, found, variant)
    assert "150 VIPs on the switch that fails, pinged in turn. Every core is kept busy" in noted(drawn)


def test_the_command_asks_for_the_variant_that_its_options_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def run(*arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return {"runs": 1}

    monkeypatch.setattr(failover, "run", run)
    out = ["--out", str(tmp_path), "--runs", "2", "--bringups", "1", "--json"]
    for words in ([], ["--vips", "3", "--load"]):
        done = CliRunner().invoke(experiment, ["failover", *out, *words], catch_exceptions=False)
        assert done.stdout.splitlines()[-1] == '{"runs": 1}'
    assert [arguments[2:4] for arguments in asked] == [(2, 1)] * 2
    assert [arguments[-1] for arguments in asked] == [failover.Variant(), failover.Variant(3, loaded=True)]
    refused = CliRunner().invoke(experiment, ["failover", *out, "--vips", "251"])
    assert refused.exit_code == 2 and "251 is not in the range 1<=x<=250" in refused.output


def test_failures_of_every_kind_have_an_interval(tmp_path: Path, drawn: list[Any]) -> None:
    found = [
        failures.Measured(
            {
                kind: failures.Kind([10.0 * n, 12.0 * n], [0.0, 0.1], [n, 2.5], n, 5, {"link-down"})
                for kind in DAMAGES
            },
            dict.fromkeys(DAMAGES, n),
            [],
            n / 1000,
        )
        for n in (1, 2)
    ]
    summary = failures.summary(found)
    assert (summary["runs"], summary["probe_interval_ms"]) == (4 * len(DAMAGES), 2.0)
    assert summary["outage_ms_over_bringups"]["agg"].mean == 16.5
    assert (summary["broken"]["tor"], summary["left_with_their_dip"]["tor"]) == (3, 10)
    assert summary["unserved_share_after_5s"]["server"] == pytest.approx(0.05)
    assert (summary["discarded"], summary["discarded_by_kind"]["tor"]) == (3 * len(DAMAGES), 3)
    failures._plot(tmp_path, found)
    assert "halted nodes lose power" in noted(drawn)
    assert "a ping every 2 ms" in noted(drawn)
    assert "2.50 ms late (the worst from 20 ms before to 200 ms after failures)" in noted(drawn)
    to_json(summary)


def test_waves_of_a_migration_have_an_interval_each(tmp_path: Path, drawn: list[Any]) -> None:
    found = [
        migration.Measured([(40.0, 20.0), (44.0, 22.0)], n, 0, [0.1], [], (samples(10), 100.3, (40, 20)))
        for n in (0, 1)
    ]
    summary = migration.summary(found)
    assert (summary["runs"], summary["lost"]) == (4, 1)
    assert summary["wave1_ms"] == [[40, 44], [40, 44]]
    assert summary["wave2_ms_over_bringups"].mean == 21
    migration._plot(tmp_path, found)
    assert "4 runs, 1 pings lost. Nothing fails." in noted(drawn)
    to_json(summary)


def test_the_breakdown_has_the_drain_and_totals_with_it(tmp_path: Path, drawn: list[Any]) -> None:
    one = {step: [1.0, 3.0] for step in breakdown.STEPS} | {"drain": [30.0, 50.0]}
    found = {"xdp": [one, one, one]}
    summary = breakdown.summary(found)
    assert (summary["runs"], summary["bringups"]) == (6, 3)
    assert summary["ms_over_bringups"]["xdp"]["delete"].mean == (33 + 59) / 2
    assert summary["ms_median"] == {"bmv2": None, "xdp": breakdown._medians([one])}
    breakdown._plot(tmp_path, found)
    assert "The drain is a wait" in noted(drawn)
    to_json(summary)


def test_steps_that_are_one_request_have_one_time_in_the_breakdown(tmp_path: Path, drawn: list[Any]) -> None:
    each = {step: [1.0, 3.0] for step in breakdown.STEPS}
    joined = {"add_dips+add_vip": [2.0, 4.0]} | {step: each[step] for step in breakdown.STEPS[2:]}
    found = {"xdp": [joined], "bmv2": [each]}
    summary = breakdown.summary(found)
    over = summary["ms_over_bringups"]
    assert (over["xdp"]["add_dips+add_vip"].mean, over["xdp"]["add"].mean) == (3, (3 + 7) / 2)
    assert (over["bmv2"]["add"].mean, over["bmv2"]["delete"].mean) == ((3 + 9) / 2, (4 + 12) / 2)
    assert "add_vip" not in summary["ms_median"]["xdp"] and summary["ms_median"]["bmv2"]["add_vip"] == 2
    assert {row["step"] for row in breakdown._rows(found) if row["target"] == "xdp"} == set(joined)
    breakdown._plot(tmp_path, found)
    (axes,) = drawn[0].axes
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown[:4] == ["add-dips", "add-vip", "add-dips\n+ add-vip", "announce"]
    assert len(axes.patches) == 6 + 7, "what was not measured has no box"


def test_pings_lost_in_the_overload_are_told_with_their_interval(tmp_path: Path, drawn: list[Any]) -> None:
    edges = [(100.0, 100.3), (100.3, 100.6), (100.6, 100.9)]
    phase = {"offered_pps": 1e3, "delivered_pps": 9e2, "latency_ms_median": 0.5}
    found = [
        capacity.Measured(
            2600.0,
            [],
            {name: phase | {"pings_lost": lost * (name == "smux_above")} for name in capacity.PHASES},
            samples(1, lost=0.1),
            edges,
        )
        for lost in (0.40, 0.42)
    ]
    slow = capacity.Measured(2600.0, [], dict(list(found[0].phases.items())[:2]), samples(1, 0.1), edges[:2])
    summary = capacity.summary(found, slow)
    assert summary["pings_lost"]["smux_above"].mean == pytest.approx(0.41)
    assert summary["pings_lost"]["hmux"].mean == 0
    capacity._plot(tmp_path, found, slow)
    (figure,) = drawn
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any(
        f"41.0±{100 * summary['pings_lost']['smux_above'].ci95:.1f}% of pings lost" in t for t in texts
    )
    assert "Illustration: a Scapy SMux of 2,600 pps" in [axes.get_title(loc="left") for axes in figure.axes]
    assert "pings among them" in noted(drawn)
    to_json(summary)
