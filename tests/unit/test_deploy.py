"""The dashboard and the alert rules name metrics, labels and values that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from duet_p4.host_agent.datapath import EXITS

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())


def metrics() -> dict[str, set[str]]:
    """Return every metric that the code makes, with its labels."""
    found: dict[str, set[str]] = {}
    for path in ("controller/metrics.py", "duet_p4/metrics.py"):
        source = (ROOT / path).read_text()
        shared = [(m.start(), m[1]) for m in re.finditer(r"^    labels = \[(.*)\]$", source, re.MULTILINE)]
        for made in re.finditer(
            r'(Gauge|Counter)MetricFamily\(\s*"(\w+)"(?:[^()]|\([^()]*\))*?labels=(labels|\[[^\]]*\])|'
            r'(Gauge|Counter)MetricFamily\(\s*"(\w+)"',
            source,
        ):
            kind, name = made[1] or made[4], made[2] or made[5]
            labels = made[3] or ""
            if labels == "labels":
                labels = max((entry for entry in shared if entry[0] < made.start()), key=lambda e: e[0])[1]
            found[name + ("_total" if kind == "Counter" else "")] = set(re.findall(r'"(\w+)"', labels))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for panel in BOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    for group in ALERTS["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_what_is_asked_for_is_there(where: str, expression: str) -> None:
    known = metrics()
    names = re.findall(r"\bduet_\w+", expression)
    assert names
    for name in names:
        assert name in known, f"{where}: there is no {name}"
    for name, selected in re.findall(r"\b(duet_\w+)\{([^}]*)\}", expression):
        labels = re.findall(r"(\w+)\s*[=!]", selected)
        assert set(labels) <= known[name], f"{where}: {name} has the labels {known[name]}"
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= known[names[0]], where


def test_labels_that_texts_show_are_there() -> None:
    known = metrics()
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            (name, *_) = re.findall(r"\bduet_\w+", target["expr"])
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= known[name] | {"instance"}, panel["title"]
    for rule in (rule for group in ALERTS["groups"] for rule in group["rules"]):
        (name, *_) = re.findall(r"\bduet_\w+", rule["expr"])
        shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert shown <= known[name] | {"instance"}, rule["alert"]
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}


def test_the_ways_of_packets_that_are_watched_are_there() -> None:
    text = json.dumps(BOARD) + (ROOT / "deploy" / "alerts.yaml").read_text()
    watched = set(re.findall(r'way=\\?"(DROP_\w+)\\?"', text))
    assert watched == {"DROP_SNAT_FULL"}
    assert watched <= set(EXITS)
