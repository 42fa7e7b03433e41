"""The tables of simulation.md."""

from __future__ import annotations

from collections.abc import Callable

from controller.simulation.figures import figures
from controller.simulation.profile import parameters
from kept.summaries import shown, summary, there


def _parameters() -> list[list[str]]:
    return [["parameter", "value", "where it comes from", "meaning"], *(list(row) for row in parameters())]


def _smuxes() -> list[list[str]]:
    data = summary("smuxes")
    talk = data["paper"]["talk"]
    head = [
        "Tbps",
        "talk: DUET's share",
        "ours",
        "ours, worst failures",
        "balanced, worst failures",
        "no assignment below",
    ]
    head += ["talk: Ananta over DUET", "ours", "ours, worst failures"]
    rows = [head]
    even = {
        one["traffic_tbps"]: one
        for one in data["counted"]
        if (one["smux_gbps"], one["rule"]) == (3.6, "even")
    }
    for one in data["reached"]:
        stated = talk[f"{one['traffic_tbps']:g}"]
        count = even[one["traffic_tbps"]]
        rows.append(
            [
                f"{one['traffic_tbps']:g}",
                f"{stated['duet_share']:.1%}",
                shown(one["duet_share"], 1, 100) + "%",
                shown(one["duet_worst_share"], 1, 100) + "%",
                shown(one["balanced_worst_share"], 1, 100) + "%",
                shown(one["bound_share"], 1, 100) + "%",
                f"{stated['ananta'] / stated['duet']:.1f}",
                shown(count["ananta_over_duet"], 1),
                shown(count["ananta_over_duet_worst"], 1),
            ]
        )
    return rows


def _counting() -> list[list[str]]:
    data = summary("smuxes")
    names = {
        "even": "divided evenly",
        "packets": "the same in packets, 300 kpps each",
        "anycast": "most loaded; evenly over ToRs",
        "placed": "most loaded; where sources send",
        "best": "most loaded; well chosen ToRs",
    }
    rates = [one["traffic_tbps"] for one in data["reached"]]
    rows = [["SMuxes counted", *(f"Ananta / DUET at {rate:g} Tbps" for rate in rates)]]
    talk = data["paper"]["talk"]
    rows.append(
        ["the talk", *(f"{talk[f'{rate:g}']['ananta']:,} / {talk[f'{rate:g}']['duet']:,}" for rate in rates)]
    )
    for rule, name in names.items():
        mine = [one for one in data["counted"] if (one["smux_gbps"], one["rule"]) == (3.6, rule)]
        rows.append([name, *(f"{one['ananta']['mean']:,.0f} / {one['duet']['mean']:,.0f}" for one in mine)])
    return rows


def _elephants() -> list[list[str]]:
    data = summary("elephants")
    rows = [
        [
            "largest VIP",
            "Tbps",
            "talk: DUET's share",
            "ours",
            "seeds that place all large VIPs",
            "ours in those",
            "ours, worst failures",
            "balanced, worst failures",
            "the three largest VIPs",
        ]
    ]
    for one in data["rows"]:
        stated = data["paper"]["duet_share"][f"{one['traffic_tbps']:g}"]
        rows.append(
            [
                f"{one['largest_share']:.1%}",
                f"{one['traffic_tbps']:g}",
                f"{stated:.1%}",
                shown(one["duet_share"], 1, 100) + "%",
                f"{one['placed_in']} of {data['seeds']}",
                shown(one["duet_placed_share"], 1, 100) + ("%" if one["duet_placed_share"] else ""),
                shown(one["duet_worst_share"], 1, 100) + "%",
                shown(one["balanced_worst_share"], 1, 100) + "%",
                f"{one['three_largest']:.1%}",
            ]
        )
    return rows


def _random() -> list[list[str]]:
    data = summary("random")
    rates = [one["traffic_tbps"] for one in data["ours"]]
    rows = [["Random", *(f"{rate:g} Tbps" for rate in rates)]]
    labels = {
        "random": "one order, ends",
        "random-skip": "one order, skips",
        "random-orders": "an order per VIP, ends",
        "random-orders-skip": "an order per VIP, skips",
    }
    for name, label in labels.items():
        mine = [one for one in data["baselines"] if one["strategy"] == name]
        rows.append([f"{label}: more SMuxes", *(shown(one["extra_percent"]) + "%" for one in mine)])
        rows.append([f"{label}: never placed", *(shown(one["unplaced"], 1, 100) + "%" for one in mine)])
    return rows


def _failures() -> list[list[str]]:
    data = summary("failures")
    rows = [
        [
            "Tbps",
            "no failure",
            "worst container",
            "more",
            "worst of the random triples",
            "more",
            "3 busiest switches",
            "more",
        ]
    ]
    for one in data["rows"]:
        cells = [shown(one["normal"], 0, 100) + "%"]
        for value, more in (
            ("container_worst", "container_more"),
            ("triple_worst", "triple_more"),
            ("busiest_triple", "busiest_triple_more"),
        ):
            cells += [shown(one[value], 0, 100) + "%", shown(one[more], 1, 100)]
        rows.append([f"{one['traffic_tbps']:g}", *cells])
    return rows


def _migration() -> list[list[str]]:
    data = summary("migration")
    paper = {
        "sticky": ("about 95%", "about 3.5% (0.7-4.4)"),
        "non-sticky": ("-", "about 37% (25-46)"),
        "one-time": ("about 75% (60-89)", "-"),
    }
    rows = [["strategy", "paper: on HMuxes", "ours", "least", "paper: shuffled per interval", "ours"]]
    for one in data["strategies"]:
        hmux, shuffled = paper[one["strategy"]]
        rows.append(
            [
                one["strategy"],
                hmux,
                shown(one["hmux_share"], 1, 100) + "%",
                shown(one["least_hmux_share"], 1, 100) + "%",
                shuffled,
                shown(one["shuffled_share"], 1, 100) + "%",
            ]
        )
    return rows


def _assumptions() -> list[list[str]]:
    data = summary("assumptions")
    low, high = f"{data['low_tbps']:g}", f"{data['high_tbps']:g}"
    head = ["assumption", f"DUET's share at {low}, {high} Tbps", f"Ananta over DUET at {low}, {high}"]
    head += [f"Random, more SMuxes at {low}, {high}", f"on HMuxes, {high} Tbps", f"busiest link, {high} Tbps"]
    head += ["sticky: on HMuxes, shuffled", "non-sticky: shuffled", "one-time: on HMuxes"]
    rows = [head]
    for one in data["rows"]:
        sticky = "-"
        if one["sticky_hmux_share"]:
            sticky = f"{shown(one['sticky_hmux_share'], 0, 100)}%, {shown(one['sticky_shuffled'], 1, 100)}%"
        rows.append(
            [
                f"{one['assumption']}: {one['value']}" if one["value"] else f"**{one['assumption']}**",
                f"{shown(one['duet_share_low'], 1, 100)}%, {shown(one['duet_share_high'], 1, 100)}%",
                f"{one['ananta_over_duet_low']['mean']:.1f}, {one['ananta_over_duet_high']['mean']:.1f}",
                f"{shown(one['random_extra_percent_low'])}%, {shown(one['random_extra_percent_high'])}%",
                shown(one["hmux_share_high"], 1, 100) + "%",
                shown(one["max_link_high"], 0, 100) + "%",
                sticky,
                shown(one["fresh_shuffled"], 0, 100) + ("%" if one["fresh_shuffled"] else ""),
                shown(one["one_time_hmux_share"], 0, 100) + ("%" if one["one_time_hmux_share"] else ""),
            ]
        )
    return rows


def _consistency() -> list[list[str]]:
    data = summary("consistency")
    rows = [
        [
            "scheme",
            "connections broken",
            "lost with their DIP",
            "state of a mux at most",
            "busiest DIP over the mean",
        ]
    ]
    for one in data["rows"]:
        rows.append(
            [
                one["scheme"],
                shown(one["broken_percent"], 3) + "%",
                shown(one["lost_percent"], 1) + "%",
                shown(one["state_kb"], 1) + " kB",
                shown(one["imbalance"], 2),
            ]
        )
    return rows


def _rubik() -> list[list[str]]:
    data = summary("rubik")
    names = {
        ("duet", "duet"): "DUET",
        ("duet", "lightest"): "DUET, by the lightest touched resource",
        ("duet", "links"): "DUET, by the busiest link alone",
        ("locality", "links"): "locality alone, the rest by the busiest link",
        ("rubik", "duet"): "Rubik, the rest as DUET does",
        ("rubik", "links"): "Rubik, the rest by the busiest link",
    }
    rows = [
        ["from the Internet", "way", "stays in ToRs", "bandwidth less", "busiest link", "lower than DUET's",
         "than DUET's placed alike"],
    ]  # fmt: skip
    for one in data["rows"]:
        rows.append(
            [
                f"{one['internet']:.0%}",
                names[one["mode"], one["placing"]],
                shown(one["local"], 0, 100) + "%",
                shown(one["bandwidth_less"], 1) + "x",
                shown(one["max_link"], 0, 100) + "%",
                shown(one["max_link_less"], 1) + "x",
                shown(one["max_link_less_alike"], 1) + "x",
            ]
        )
    return rows


def _shuffle() -> list[list[str]]:
    data = summary("shuffle")
    names = {
        "near-ties": "near-ties, of what a VIP touches",
        "near-mru": "near-ties, over all resources",
        "lightest": "the least, whatever the difference",
        "duet-skip": "the paper's, ties at random",
        "sticky-skip": "sticky",
    }
    errors = sorted({one["error"] for one in data["rows"] if one["error"]})
    rows = [["strategy", "traffic", *(f"{error:.1%}" for error in errors)]]
    for measured, what in ((False, "the trace"), (True, "measured only")):
        for name, label in names.items():
            mine = {
                one["error"]: one["shuffled_share"]
                for one in data["rows"]
                if (one["strategy"], one["measured"]) == (name, measured)
            }
            cells = [shown(mine.get(error, mine.get(0.0)), 1, 100) + "%" for error in errors]
            rows.append([label, what, *cells])
    return rows


def _runs() -> list[list[str]]:
    rows = [["figure", "seeds", "runs", "discarded", "CPU seconds", "what it shows"]]
    for name, figure in figures().items():
        if not there(name):
            continue
        data = summary(name)
        title = f"{figure.number}: {name}" if figure.number else name
        seeds, runs = str(data.get("seeds", 1)), str(data.get("runs", data.get("seeds", 1)))
        took = f"{data['cpu_s']:,.0f}" if "cpu_s" in data else "-"
        rows.append([title, seeds, runs, str(data.get("discarded", 0)), took, data["headline"]])
    return rows


TABLES: dict[str, Callable[[], list[list[str]]]] = {
    "parameters": _parameters,
    "runs": _runs,
    "smuxes": _smuxes,
    "counting": _counting,
    "elephants": _elephants,
    "random": _random,
    "failures": _failures,
    "migration": _migration,
    "assumptions": _assumptions,
    "consistency": _consistency,
    "rubik": _rubik,
    "shuffle": _shuffle,
}


FIGURE_OF = {"counting": "smuxes"}
"""Tables that show another figure's summary than the one of their name."""


def table(name: str) -> str:
    """Return a table as Markdown; that of a figure whose summary is not kept says so."""
    if name not in ("parameters", "runs") and not there(FIGURE_OF.get(name, name)):
        return "No run of this figure is kept."
    head, *rows = TABLES[name]()
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
