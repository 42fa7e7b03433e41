"""The rows of README's results that simulations and experiments fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kept.summaries import TESTBED, listed, shown, summary, there


class Row(NamedTuple):
    """A row. It takes the place of the one that begins with `begins`; what stands after that may change."""

    begins: str
    rest: str
    paper: str
    ours: str
    how: str

    def __str__(self) -> str:
        """Return it as Markdown."""
        return f"| {self.begins}{self.rest} | {self.paper} | {self.ours} | `duet {self.how}` |"


def rows() -> list[Row]:
    """Return the rows of everything whose summary is kept."""
    found = [row for name, of in _SIMULATED.items() if there(name) for row in of(summary(name))]
    return found + [of(summary(name, TESTBED)) for name, of in _MEASURED.items() if there(name, TESTBED)]


def _smuxes(data: dict[str, Any]) -> list[Row]:
    talk = data["paper"]["talk"]

    def over(gbps: str) -> str:
        return ", ".join(f"{value:.1f}" for value in data["ananta_over_duet"][gbps].values())

    def shares(field: str) -> str:
        return ", ".join(f"{one[field]['mean']:.1%}" for one in data["reached"])

    ratios = ", ".join(f"{one['ananta'] / one['duet']:.1f}" for one in talk.values())
    fallback = ", ".join(f"{one['duet_share']:.1%}" for one in talk.values())
    ours = "; ".join(
        shares(field) for field in ("duet_share", "duet_worst_share", "balanced_worst_share", "bound_share")
    )
    how = "simulate smuxes"
    return [
        Row(
            "SMuxes, Ananta over DUET, at 3.6 Gbps per SMux (figure 16)",
            f", {data['seeds']} seeds",
            f"12 to 24; the authors' talk: {ratios}",
            over("3.6"),
            how,
        ),
        Row("the same at 10 Gbps per SMux", "", "8 to 12", over("10"), how),
        Row(
            "traffic that SMuxes must carry",
            ": DUET, by the text's failures; by the worst; `balanced`, by the worst; no assignment below",
            f"talk: {fallback}",
            ours,
            how,
        ),
    ]


def _latency(data: dict[str, Any]) -> list[Row]:
    us, same = data["duet_us"]["0.5"]["mean"], data["ananta_same_smuxes_us"]["mean"] / 1000
    paper = "474 us; Ananta on as many SMuxes: over 6 ms"
    name = "median round trip at 10 Tbps (figure 17)"
    return [Row(name, "", paper, f"{us:.0f} us; {same:.1f} ms", "simulate latency")]


def _random(data: dict[str, Any]) -> list[Row]:
    def extra(name: str) -> str:
        mine = [one for one in data["baselines"] if one["strategy"] == name]
        return ", ".join(f"{one['extra_percent']['mean']:,.0f}%" for one in mine)

    return [
        Row(
            "SMuxes Random needs beyond DUET's (figure 18)",
            ": if a VIP that does not fit is skipped; if it ends the assignment",
            "120% to 307%",
            f"{extra('random-skip')}; {extra('random')}",
            "simulate random",
        )
    ]


def _failures(data: dict[str, Any]) -> list[Row]:
    top = data["rows"][-1]
    more = [shown(top[f"{name}_more"], 1, 100) for name in ("container", "triple", "busiest_triple")]
    return [
        Row(
            "points that the worst container failure, the worst of ten random triples, and the three busiest",
            f" switches' failure add to the busiest link at {top['traffic_tbps']:g} Tbps (figure 19)",
            "changes little",
            f"{', '.join(more)}, on {shown(top['normal'], 0, 100)}%",
            "simulate failures",
        )
    ]


def _migration(data: dict[str, Any]) -> list[Row]:
    by_name = {one["strategy"]: one for one in data["strategies"]}

    def cell(name: str, field: str) -> str:
        return shown(by_name[name][field], 1, 100) + "%"

    ours = "; ".join(
        f"{cell(name, 'hmux_share')}, {cell(name, 'shuffled_share') if name != 'one-time' else '-'}"
        for name in ("sticky", "non-sticky", "one-time")
    )
    return [
        Row(
            "traffic on HMuxes over 3 hours, and shuffled per interval (figure 20)",
            ": sticky; non-sticky; one-time",
            "about 95%, 3.5%; -, 37%; 75%, - (remembered)",
            ours,
            "simulate migration",
        )
    ]


def _shuffle(data: dict[str, Any]) -> list[Row]:
    def curve(name: str) -> list[Any]:
        return [one for one in data["rows"] if one["strategy"] == name and one["measured"]]

    errors = listed([f"{one['error']:.1%}" for one in curve("lightest")])
    names = ("near-mru", "near-ties", "lightest")
    ours = "; ".join(
        ", ".join(f"{one['shuffled_share']['mean']:.1%}" for one in curve(name)) for name in names
    )
    return [
        Row(
            "traffic shuffled per interval",
            f" where it is measured {errors} wrong and changes no further: near-ties within that error, "
            f"over all "
            "resources; over those that a VIP touches; always the least",
            "",
            ours,
            "simulate shuffle",
        )
    ]


def _rubik(data: dict[str, Any]) -> list[Row]:
    found = [one for one in data["rows"] if (one["mode"], one["placing"]) == ("rubik", "links")]
    shares = listed([f"{one['internet']:.0%}" for one in found])
    band = ", ".join(f"{one['bandwidth_less']['mean']:.1f}x" for one in found)
    link = ", ".join(f"{one['max_link_less']['mean']:.1f}x" for one in found)
    return [
        Row(
            "Rubik against DUET on the same traces",
            f", with {shares} of the traffic from the Internet: less bandwidth; lower busiest link",
            "over 3x; about 4x (Rubik's)",
            f"{band}; {link}",
            "simulate rubik",
        )
    ]


def _consistency(data: dict[str, Any]) -> list[Row]:
    broken = [f"{one['scheme']} {shown(one['broken_percent'], 2)}%" for one in data["rows"]]
    return [
        Row(
            "connections broken by one churn",
            f", {data['seeds']} seeds",
            "",
            ", ".join(broken),
            "simulate consistency",
        )
    ]


def _ms(estimate: dict[str, float]) -> str:
    return f"{shown(estimate, 2 if estimate['mean'] < 10 else 0)} ms"


def _failover(data: dict[str, Any]) -> Row:
    lost = f"lose {data['others_lost']} pings" if data["others_lost"] else "lose nothing"
    return Row(
        "outage of a VIP whose HMux dies (figure 12)",
        f", {data['runs']} runs on {data['bringups']} testbeds, a probe every "
        f"{data['probe_interval_ms']:g} ms",
        f"{data['paper']['outage_ms']:g} ms",
        f"median {data['outage_ms_median']:.2f} ms, 95% within {data['outage_ms_p95']:.2f} ms; over testbeds "
        f"{_ms(data['outage_ms_over_bringups'])}; other VIPs {lost} ([how](docs/performance.md))",
        "experiment failover",
    )


def _failover_variant(begins: str, option: str) -> Callable[[dict[str, Any]], Row]:
    def row(data: dict[str, Any]) -> Row:
        return Row(
            begins,
            f", {data['runs']} runs on {_testbeds(data['bringups'])}",
            "",
            f"median {data['outage_ms_median']:.2f} ms, 95% within {data['outage_ms_p95']:.2f} ms; all back "
            f"after {data['all_back_ms_median']:.2f} ms",
            f"experiment failover {option}",
        )

    return row


def _times(runs: int) -> str:
    return "once each" if runs == 1 else f"{runs} times each"


def _testbeds(bringups: int) -> str:
    return "one testbed" if bringups == 1 else f"{bringups} testbeds"


def _other_failures(data: dict[str, Any]) -> Row:
    medians = data["outage_ms_median"]
    runs = data["runs"] // len(medians)
    told = ", ".join(f"{name} {ms:.0f} ms" for name, ms in medians.items())
    return Row(
        "longest outage of any VIP when",
        f" one of {len(medians)} kinds of thing fails, {_times(runs)} on {_testbeds(data['bringups'])} "
        "([which](docs/experiments.md))",
        "",
        f"medians: {told}; {sum(data['broken'].values())} connections broken",
        "experiment failures",
    )


def _waves(data: dict[str, Any]) -> Row:
    lost = f"{data['lost']} pings lost" if data["lost"] else "no ping lost"
    return Row(
        "waves of a migration (figure 13)",
        f", {data['runs']} runs on {data['bringups']} testbeds",
        "450 and 400 ms, no ping lost",
        f"medians {data['wave1_ms_median']:.0f} and {data['wave2_ms_median']:.0f} ms; over testbeds "
        f"{_ms(data['wave1_ms_over_bringups'])} and {_ms(data['wave2_ms_over_bringups'])}; {lost}",
        "experiment migration",
    )


def _capacity(data: dict[str, Any]) -> Row:
    phases = ("smux_below", "smux_above", "hmux")
    latency = ", ".join(_ms(data["latency_ms_median"][phase]) for phase in phases)
    lost = listed([shown(data["pings_lost"][phase], 1, 100) + "%" for phase in phases])
    slow = data["illustration"]["phases"]["smux_above"]
    return Row(
        "latency with the SMux at 2/3 of its capacity, at 4/3, then on the HMux (figure 11)",
        f", {data['bringups']} testbeds",
        "< 1 ms, tens of ms, 1 ms",
        f"{latency}, with {lost} of the pings lost; scaled to one XDP SMux of "
        f"{shown(data['smux_capacity_pps'], 0, 1e-3)} kpps, while the HMux forwards "
        f"{shown(data['hmux_pps'], 0, 1e-3)} kpps; a Scapy SMux above its "
        f"{data['illustration']['smux_capacity_pps'] / 1e3:.1f} kpps: {slow['latency_ms_median']:.0f} ms, "
        f"{slow['pings_lost']:.0%} lost",
        "experiment capacity",
    )


def _breakdown(data: dict[str, Any]) -> Row:
    over = data["ms_over_bringups"]["xdp"]
    return Row(
        "adding a VIP to an HMux, and deleting it, its drain among that (figure 14)",
        f", {data['runs']} runs on {data['bringups']} testbeds",
        "each step up to hundreds of ms",
        f"{_ms(over['add'])}; {_ms(over['delete'])}, of which the drain {_ms(over['drain'])}",
        "experiment breakdown",
    )


def _connections(data: dict[str, Any]) -> Row:
    left = sum(data["left_with_their_dip"].values())
    broken = {event: count for event, count in data["broken"].items() if count}
    told = ", ".join(f"{count} by {event.replace('_', ' ')}" for event, count in broken.items())
    what, more = "live TCP connections", ""
    if kinds := data.get("kinds"):
        what = "live connections"
        more = (
            f" ({kinds['udp']:,} of them UDP, {kinds['snat']:,} through SNAT), by agents, a BIRD and the "
            "controller killed or ended, a failed check, 50,000 SYNs, two failures at once,"
        )
    return Row(
        f"{what} broken",
        f", of {data['connections']:,}{more or ','} by a migration, a DIP removed, a DIP added, an SMux and "
        "a switch failed and back; of as many behind TIPs, as DIPs join, leave and join again (a DIP that is "
        "removed takes "
        f"its own along: {left} in all)",
        "",
        told or "0 in each",
        f"experiment consistency --connections {data['connections']}",
    )


def _chaos(data: dict[str, Any]) -> Row:
    wrong = f"; {len(data['differences'])} differences left" if data["differences"] else ""
    return Row(
        "random kill -9",
        f", {data['seconds']:.0f} s of it ({sum(data['kills'].values())} of switches, agents, SMuxes, host "
        f"agents, BIRDs, the controller) amid {data['changes']['acknowledged']} acknowledged changes",
        "",
        f"{len(data['lost'])} lost, every device as wanted after {data['converged_s']:.1f} s{wrong}"
        + (f"; {data['broken']} of {data['connections']:,} connections broken" if "broken" in data else ""),
        "experiment chaos",
    )


_SIMULATED: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
    "smuxes": _smuxes,
    "latency": _latency,
    "random": _random,
    "failures": _failures,
    "migration": _migration,
    "shuffle": _shuffle,
    "rubik": _rubik,
    "consistency": _consistency,
}
_MEASURED: dict[str, Callable[[dict[str, Any]], Row]] = {
    "consistency": _connections,
    "chaos": _chaos,
    "failover": _failover,
    "failover-150-vips": _failover_variant(
        "that outage with 150 VIPs on the switch that dies, their mean", "--vips 150"
    ),
    "failover-loaded": _failover_variant("that outage with every core kept busy", "--load"),
    "failures": _other_failures,
    "migration": _waves,
    "capacity": _capacity,
    "breakdown": _breakdown,
}
