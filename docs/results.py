"""Keep docs/results/, and the tables of simulation.md and the rows of README.md that show them.

    python docs/results.py FOLDER     take summaries and pictures of `duet simulate all`, write the tables
python docs/results.py            write the tables anew
python docs/results.py --check    exit 1 where a table is not what docs/results/ says
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.simulation.figures import figures
from controller.simulation.profile import parameters

HERE = Path(__file__).parent
PAGE = HERE / "simulation.md"
README = HERE.parent / "README.md"
RESULTS = HERE / "results"
BLOCK = re.compile(r"<!-- table: ([a-z-]+) -->\n.*?<!-- end -->", re.DOTALL)


def summary(name: str) -> dict[str, Any]:
    """Return a committed summary."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def collect(folder: Path) -> None:
    """Take summaries, rounded to five digits, and pictures."""
    RESULTS.mkdir(exist_ok=True)
    for name, figure in figures().items():
        if not (folder / f"{name}.json").exists():
            continue
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        text = json.dumps(_rounded(record), indent=1) + "\n"
        (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
        shutil.copy(folder / f"{figure.file}.png", HERE / "figures" / f"{figure.file}.png")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def shown(estimate: dict[str, float] | None, digits: int = 0, factor: float = 1.0) -> str:
    """Return `mean±ci`, or a dash."""
    if estimate is None:
        return "-"
    mean, half = factor * estimate["mean"], factor * estimate["ci95"]
    return f"{mean:,.{digits}f}" if estimate["n"] == 1 else f"{mean:,.{digits}f}±{half:,.{digits}f}"


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
    rows = [
        ["trace; what places the rest", "way", "stays in ToRs", "bandwidth less", "busiest link", "lower"]
    ]
    for one in data["rows"]:
        rows.append(
            [
                f"{one['trace']}; {one['placing']}",
                one["mode"],
                shown(one["local"], 0, 100) + "%",
                f"{one['bandwidth_less']['mean']:.1f}x",
                shown(one["max_link"], 0, 100) + "%",
                f"{one['max_link_less']['mean']:.1f}x",
            ]
        )
    return rows


def _runs() -> list[list[str]]:
    rows = [["figure", "seeds", "runs", "discarded", "what it shows"]]
    for name, figure in figures().items():
        if not (RESULTS / f"{name}.json").exists():
            continue
        data = summary(name)
        title = f"{figure.number}: {name}" if figure.number else name
        seeds, runs = str(data.get("seeds", 1)), str(data.get("runs", data.get("seeds", 1)))
        rows.append([title, seeds, runs, str(data.get("discarded", 0)), data["headline"]])
    return rows


def readme_rows() -> list[str]:
    """Return the rows of README's results that are the simulations'."""
    smuxes, random, latency = summary("smuxes"), summary("random"), summary("latency")
    talk = smuxes["paper"]["talk"]

    def over(gbps: str) -> str:
        return ", ".join(f"{value:.1f}" for value in smuxes["ananta_over_duet"][gbps].values())

    def shares(field: str) -> str:
        return ", ".join(f"{one[field]['mean']:.1%}" for one in smuxes["reached"])

    def extra(name: str) -> str:
        mine = [one for one in random["baselines"] if one["strategy"] == name]
        return ", ".join(f"{one['extra_percent']['mean']:,.0f}%" for one in mine)

    ratios = ", ".join(f"{one['ananta'] / one['duet']:.1f}" for one in talk.values())
    fallback = ", ".join(f"{one['duet_share']:.1%}" for one in talk.values())
    count = "`duet simulate smuxes`"
    us, same = latency["duet_us"]["0.5"]["mean"], latency["ananta_same_smuxes_us"]["mean"] / 1000
    rows = [
        [
            "SMuxes, Ananta over DUET, at 3.6 Gbps per SMux (figure 16)",
            f"12 to 24; the authors' talk: {ratios}",
            over("3.6"),
            count,
        ],
        ["the same at 10 Gbps per SMux", "8 to 12", over("10"), count],
        [
            "traffic that SMuxes must carry: DUET, by the text's failures; by the worst; `balanced`, by "
            "the worst; "
            "no assignment below",
            f"talk: {fallback}",
            "; ".join(
                shares(field)
                for field in ("duet_share", "duet_worst_share", "balanced_worst_share", "bound_share")
            ),
            count,
        ],
        [
            "median round trip at 10 Tbps (figure 17)",
            "474 us; Ananta on as many SMuxes: over 6 ms",
            f"{us:.0f} us; {same:.1f} ms",
            "`duet simulate latency`",
        ],
        [
            "SMuxes Random needs beyond DUET's (figure 18): if a VIP that does not fit is skipped; if it "
            "ends the assignment",
            "120% to 307%",
            f"{extra('random-skip')}; {extra('random')}",
            "`duet simulate random`",
        ],
    ]
    if (RESULTS / "failures.json").exists():
        top = summary("failures")["rows"][-1]
        rows.append(
            [
                "points that the worst container failure, the worst of ten random triples, and the three "
                "busiest "
                "switches' failure add to the busiest link at 10 Tbps (figure 19)",
                "changes little",
                f"{shown(top['container_more'], 1, 100)}, {shown(top['triple_more'], 1, 100)}, "
                f"{shown(top['busiest_triple_more'], 1, 100)}, on {shown(top['normal'], 0, 100)}%",
                "`duet simulate failures`",
            ]
        )
    by_name = {one["strategy"]: one for one in summary("migration")["strategies"]}
    sticky, fresh, once = by_name["sticky"], by_name["non-sticky"], by_name["one-time"]
    rows.append(
        [
            "traffic on HMuxes over 3 hours, and shuffled per interval (figure 20): sticky; non-sticky; "
            "one-time",
            "about 95%, 3.5%; -, 37%; 75%, - (remembered)",
            f"{shown(sticky['hmux_share'], 1, 100)}%, {shown(sticky['shuffled_share'], 1, 100)}%; "
            f"{shown(fresh['hmux_share'], 1, 100)}%, {shown(fresh['shuffled_share'], 1, 100)}%; "
            f"{shown(once['hmux_share'], 1, 100)}%, -",
            "`duet simulate migration`",
        ]
    )
    if (RESULTS / "rubik.json").exists():
        found = [one for one in summary("rubik")["rows"] if one["mode"] == "rubik"]
        band = sorted(one["bandwidth_less"]["mean"] for one in found)
        link = sorted(one["max_link_less"]["mean"] for one in found)
        rows.append(
            [
                "Rubik against DUET on the same traces: less bandwidth; lower busiest link",
                "over 3x; about 4x (Rubik's)",
                f"{band[0]:.1f}-{band[-1]:.1f}x; {link[0]:.1f}-{link[-1]:.1f}x",
                "`duet simulate rubik`",
            ]
        )
    schemes = summary("consistency")
    broken = [f"{one['scheme']} {shown(one['broken_percent'], 2)}%" for one in schemes["rows"]]
    rows.append(
        [
            f"connections broken by one churn, {schemes['seeds']} seeds",
            "",
            ", ".join(broken),
            "`duet simulate consistency`",
        ]
    )
    return [f"| {' | '.join(row)} |" for row in rows]


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
}


FIGURE_OF = {"counting": "smuxes"}
"""Tables that show another figure's summary than the one of their name."""


def table(name: str) -> str:
    """Return a table as Markdown; that of a figure whose summary is not kept says so."""
    if name not in ("parameters", "runs") and not (RESULTS / f"{FIGURE_OF.get(name, name)}.json").exists():
        return "No run of this figure is kept."
    head, *rows = TABLES[name]()
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(text: str) -> str:
    """Return the page with every table as docs/results/ has it."""
    return BLOCK.sub(lambda m: f"<!-- table: {m[1]} -->\n{table(m[1])}\n<!-- end -->", text)


def readme(text: str) -> str:
    """Return README with every row of the simulations as docs/results/ has it; a row is known by its name."""
    lines = text.split("\n")
    for row in readme_rows():
        name = row[: row.index(" | ", 2) + 3]
        found = [number for number, line in enumerate(lines) if line.startswith(name)]
        if len(found) != 1:
            raise SystemExit(f"README.md: {len(found)} rows begin with {name!r}, not one")
        lines[found[0]] = row
    return "\n".join(lines)


def main() -> int:
    """Do what the arguments say."""
    arguments = sys.argv[1:]
    check = arguments == ["--check"]
    if arguments and not check:
        collect(Path(arguments[0]))
    status = 0
    for path, wanted_of in ((PAGE, page), (README, readme)):
        text = path.read_text(encoding="utf-8")
        wanted = wanted_of(text)
        if check and wanted != text:
            sys.stderr.write(f"{path.name}: a number is not what docs/results/ says; run docs/results.py\n")
            status = 1
        elif not check:
            path.write_text(wanted, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
