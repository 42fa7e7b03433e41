"""The sentences of simulation.md and experiments.md that say what was found, with their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kept.summaries import TESTBED, listed, shown, span, summary, there

Found = dict[str, Any]


def _means(rows: list[Found], field: str, factor: float = 1.0) -> list[float]:
    return [factor * row[field]["mean"] for row in rows]


def _percents(values: list[float], digits: int = 0) -> str:
    return span([100 * value for value in values], f"{{:.{digits}f}}") + "%"


def _at(row: Found) -> str:
    return f"{row['traffic_tbps']:g} Tbps"


def _trend(values: list[float], form: str = "{:.1f}") -> str:
    """Return how values go from the first to the last."""
    first, last = values[0], values[-1]
    way = "stays" if 0.85 < last / first < 1.15 else "falls" if last < first else "grows"
    ends = f"{form.format(first)} to {form.format(last)}"
    return f"stays about where it is ({ends})" if way == "stays" else f"{way} ({ends})"


def _bound() -> str:
    reached = summary("smuxes")["reached"]
    share = _percents(_means(reached, "bound_hmux_share"), 1)
    hmux = listed(sorted({row["bound_hmux_binds"] for row in reached}))
    fallback = listed(sorted({row["bound_binds"] for row in reached}))
    return (
        f"What binds, in every seed and at every traffic: of what HMuxes carry ({share} at most), {hmux}; "
        f"of what "
        f"falls back, that {fallback}."
    )


def _elephants_bound() -> str:
    sizes, random = summary("elephants")["rows"], summary("random")
    reached = summary("smuxes")["reached"]
    own = summary("elephants")["scale"]["profile"]["largest_share"]
    three = next(row["three_largest"] for row in sizes if row["largest_share"] == own)
    rest = 1 - reached[0]["bound_hmux_share"]["mean"]
    over = max(_means(random["ours"], "balanced_over_bound"))
    above = [
        f"{row['largest_share']:.0%} at {_at(row)}"
        for row in sizes
        if row["balanced_worst_share"]["mean"] > row["three_largest"] + rest + 0.002
    ]
    but = f", but for {listed(above)}, where a large VIP found no place in some seeds" if above else ""
    return (
        f"With the default trace that is {three:.1%} + {rest:.1%} of the traffic, and `balanced` needs at "
        f"most "
        f"{over:.4f} times the bound, means of {random['ours'][0]['balanced_over_bound']['n']} seeds at each "
        f"traffic. With every other size of the largest VIP below it needs what the three largest carry and "
        f"{rest:.1%} more, too{but}."
    )


def _smuxes() -> str:
    data = summary("smuxes")
    ours = list(data["ananta_over_duet"]["3.6"].values())
    talk = [one["ananta"] / one["duet"] for one in data["paper"]["talk"].values()]
    low, high = data["paper"]["ananta_over_duet"]["3.6"]
    within = "lies within" if all(low <= value <= high for value in ours) else "does not all lie within"
    return (
        f"Ours {within} the paper's {low} to {high}. As traffic grows, the talk's ratio {_trend(talk)}, ours "
        f"{_trend(ours)}. Two assumptions separate us: how large the largest VIPs are, and where SMuxes "
        f"stand."
    )


def _ended() -> str:
    data = summary("smuxes")
    seeds, reached = data["seeds"], data["reached"]
    ends = [one for row in reached for one in row["ended"]]
    if not ends:
        return f"Over the {seeds} seeds of figure 16 the algorithm places large VIPs in every one."
    often = listed([f"{len(row['ended'])} at {_at(row)}" for row in reached if row["ended"]])
    after = span([float(one["routes"]) for one in ends], "{:,.0f}")
    carried = _percents([one["hmux_share"] for one in ends])
    medians = listed([f"{row['duet_median_share']:.1%}" for row in reached])
    never = [_at(row) for row in reached if not row["ended"]]
    without = f" None ends early at {listed(never)}." if never else ""
    return (
        f"Nor is it safe: of the {seeds} seeds of figure 16 the algorithm ends early in {often}, after "
        f"{after} VIPs "
        f'and TIPs, with {carried} of the traffic on HMuxes. (The talk\'s "86-99.9%" may be such '
        f"ends.){without} "
        f"These seeds widen the intervals of figure 16 and raise its means; the medians of DUET's share are "
        f"{medians}. How often it happens is a property of our places and sources as much as of the size."
    )


def _elephants() -> str:
    data = summary("elephants")
    rows, seeds = data["rows"], data["seeds"]
    sizes = sorted({row["largest_share"] for row in rows})
    stated = data["paper"]["duet_share"]

    def off(size: float) -> float:
        return sum(
            abs(row["duet_share"]["mean"] - stated[f"{row['traffic_tbps']:g}"])
            for row in rows
            if row["largest_share"] == size
        )

    nearest = min(sizes, key=off)
    worst = _percents(_means([row for row in rows if row["largest_share"] == nearest], "duet_worst_share"))
    short = [row for row in rows if row["placed_in"] < seeds]
    early = []
    for row in short:
        after = span([float(one["routes"]) for one in row["ended"]], "{:,.0f}") if "ended" in row else ""
        early.append(
            f"with {row['largest_share']:.1%} at {_at(row)} in {seeds - row['placed_in']}"
            + (f" (after {after} VIPs and TIPs)" if after else "")
        )
    safe = [
        size for size in sizes if all(r["placed_in"] == seeds for r in rows if r["largest_share"] == size)
    ]
    own = data["scale"]["profile"]["largest_share"]
    largest = max(safe, default=0.0)
    chosen = "That is why it is the default" if own == largest else f"The default is {own:.1%}"
    return (
        f"By the text's failures DUET's share comes closest to the talk's with {nearest:.0%}, where the "
        f"worst "
        f"failures put {worst} on the SMuxes; the talk's are {_percents(list(stated.values()))}. But of "
        f"{seeds} "
        "seeds a large VIP finds no place, which ends the assignment, "
        f"{listed(early) if early else 'in none'}, "
        f"against the stated 16k VIPs at every traffic. {largest:.1%} is the largest of these sizes with "
        f"which all "
        f"large VIPs are placed at every traffic in all {seeds} seeds. {chosen}; it was chosen with runs "
        f"at hand, "
        f"and with it DUET's share stays at about half the talk's."
    )


def _counting() -> str:
    data = summary("smuxes")
    talk = data["paper"]["talk"]

    def over(rule: str) -> list[float]:
        """Return Ananta's SMuxes by a rule over the talk's."""
        mine = [one for one in data["counted"] if (one["smux_gbps"], one["rule"]) == (3.6, rule)]
        return [one["ananta"]["mean"] / talk[f"{one['traffic_tbps']:g}"]["ananta"] for one in mine]

    even = next(one for one in data["counted"] if (one["smux_gbps"], one["rule"]) == (3.6, "even"))
    best = next(one for one in data["counted"] if (one["smux_gbps"], one["rule"]) == (3.6, "best"))
    extra = best["ananta"]["mean"] / even["ananta"]["mean"] - 1
    chosen = "none are needed beyond that" if extra < 0.005 else f"{extra:.0%} more are needed than that"
    return (
        "Standing in proportion to what each ToR sends, Ananta's SMuxes come to "
        f"{span(over('placed'), '{:.2f}')} "
        f"times the talk's, evenly over the ToRs to {span(over('anycast'), '{:.2f}')}; divided evenly they "
        f"are "
        f'{span(over("even"), "{:.2f}")} of them, and under well chosen ToRs {chosen}. So "the most loaded '
        f'SMux" '
        f"is a statement about placement, which the paper does not describe."
    )


def _latency() -> str:
    data = summary("latency")
    rtt, added = data["paper"]["rtt_us"], data["paper"]["smux_added_us"]["100 kpps"]
    stated = data["paper"]["duet"]["median_us"]
    floor, same = data["ananta_floor_us"]["mean"], data["ananta_same_smuxes_us"]["mean"]
    return (
        f"No number of SMuxes brings Ananta to {stated} us here: an SMux adds at least {added} us "
        f"(stated), so "
        f"{rtt + added} us is the floor before any detour, and our curve ends at {floor:.0f} us. The paper's "
        f"{stated} us with {data['paper']['ananta_smuxes_to_match']:,} SMuxes needs SMuxes that add less "
        f"than "
        f"{stated - rtt} us. Ananta on as many SMuxes as DUET stands at {same / 1000:.1f} ms, the talk's "
        f"last point; "
        f'the paper\'s figure says "over {data["paper"]["ananta_same_smuxes_us_over"] / 1000:g} ms".'
    )


def _random() -> str:
    rows = summary("random")["baselines"]

    def of(name: str, field: str) -> list[float]:
        return [row[field]["mean"] for row in rows if row["strategy"] == name]

    low, high = summary("random")["paper"]["extra_smuxes_percent"]
    routes = span(of("random", "routes"), "{:,.0f}")
    return (
        "What happens at the first VIP that fits nowhere decides. If it is skipped, Random in one order "
        f"needs "
        f"{span(of('random-skip', 'extra_percent'))}% more SMuxes, beside the paper's {low} to {high}%; if "
        f"it ends the "
        f"assignment, as notes on the paper say, Random stops after {routes} VIPs and TIPs on average and "
        f"leaves "
        f"{_percents(of('random', 'unplaced'))} of the traffic to the SMuxes. Random orders differ much, "
        f"so the "
        f"intervals are wide. With a new order for every VIP that skips what does not fit, Random needs "
        f"{span(of('random-orders-skip', 'extra_percent'))}% more than DUET, whose ties are random as well."
    )


def _failures() -> str:
    low, *_, high = summary("failures")["rows"]
    more = [high[f"{name}_more"]["mean"] * 100 for name in ("triple", "busiest_triple")]
    small = 100 * max(
        low["container_more"]["mean"], low["triple_more"]["mean"], low["busiest_triple_more"]["mean"]
    )
    return (
        f"At {_at(low)} no failure adds more than {max(0.0, small):.1f} points on average, as the paper "
        f"says. At "
        f"{_at(high)} a container's failure adds {shown(high['container_more'], 1, 100)} points, while three "
        f"switches, the worst of the random ones or the busiest, add {span(more)}: links that the "
        f"assignment filled to "
        f"{high['normal']['mean']:.0%} of their capacity, of the 80% it may use, take over from dead ones."
    )


def _migration() -> str:
    assumptions = summary("assumptions")["rows"]
    skipped = next(row for row in assumptions if row["value"].startswith("is skipped"))
    once = next(row for row in summary("migration")["strategies"] if row["strategy"] == "one-time")
    return (
        f"One-time decays to {once['last_hmux_share']['mean']:.0%} in the last interval, for the reason "
        f"that the paper "
        "has: VIPs that were off or not yet born when it was made are on the SMuxes. Sticky and "
        f"non-sticky fall to "
        "the SMuxes whenever a large VIP fits nowhere, because the paper's algorithm ends there; where it "
        f"is "
        f"skipped instead, sticky keeps {skipped['sticky_hmux_share']['mean']:.1%} on HMuxes in the same "
        f"hour and "
        f"shuffles {skipped['sticky_shuffled']['mean']:.1%} per interval "
        f"(seeds: {summary('assumptions')['seeds']}). "
        "Non-sticky shuffles nearly everything with ties at random; how much less with ties that count as "
        f"equal "
        f"within an error is the curve below."
    )


def _shuffle() -> str:
    data = summary("shuffle")

    def share(name: str, *, measured: bool) -> list[float]:
        rows = [one for one in data["rows"] if (one["strategy"], one["measured"]) == (name, measured)]
        return [one["shuffled_share"]["mean"] for one in rows]

    errors = [one["error"] for one in data["rows"] if one["strategy"] == "near-ties" and one["measured"]]
    ends = f"{errors[0]:.1%} to {errors[-1]:.0%}"
    kept = [one["hmux_share"]["mean"] for one in data["rows"] if one["strategy"].startswith("near-")]
    return (
        f"Over {ends} (seeds: {data['seeds']}): on the trace, ties within the error over all resources "
        f"shuffle "
        f"{_percents(share('near-mru', measured=False), 1)} per interval, among those that a VIP touches "
        f"{_percents(share('near-ties', measured=False), 1)}; always the least "
        f"{_percents(share('lightest', measured=False))}, random ties "
        f"{_percents(share('duet-skip', measured=False))}, sticky "
        f"{_percents(share('sticky-skip', measured=False), 1)}. Where nothing changes but what is "
        f"measured, which is "
        f"off by that error, the same two shuffle {_percents(share('near-mru', measured=True), 1)} and "
        f"{_percents(share('near-ties', measured=True), 1)}, always the least "
        f"{_percents(share('lightest', measured=True))}. The tolerant keep {_percents(kept, 1)} on HMuxes "
        f"all the "
        f"while."
    )


def _rubik() -> str:
    data = summary("rubik")

    def of(mode: str, placing: str, field: str) -> list[float]:
        rows = [one for one in data["rows"] if (one["mode"], one["placing"]) == (mode, placing)]
        return _means(rows, field)

    def times(mode: str, placing: str, field: str) -> str:
        return listed([f"{value:.1f}" for value in of(mode, placing, field)])

    band, link = of("rubik", "links", "bandwidth_less"), of("rubik", "links", "max_link_less")
    known = min(band) <= data["paper"]["bandwidth_less"] <= max(band)
    known &= min(link) <= data["paper"]["max_link_less"] <= max(link)
    shares = listed([f"{share:.0%}" for share in dict.fromkeys(one["internet"] for one in data["rows"])])
    return (
        f"With {shares} of the traffic from the Internet, which no ToR can keep, Rubik takes "
        f"{times('rubik', 'links', 'bandwidth_less')} times less bandwidth and its busiest link is "
        f"{times('rubik', 'links', 'max_link_less')} times lower than under DUET as its paper has it: the "
        f"claims of over 3 and about 4 {'lie' if known else 'do not both lie'} in that sweep. Two "
        f"assumptions "
        "decide. The first is that share. The second is what the rest is placed by. Rubik's program "
        "minimizes "
        "the busiest link; DUET takes the smallest MRU over all resources, among which a VIP of hundreds of "
        "DIPs fills most of a table wherever it goes, and breaks ties at random, which fills some link "
        "nearly "
        "to the limit. Where Rubik places its rest in that way, its busiest link is only "
        f"{times('rubik', 'duet', 'max_link_less')} times lower; where DUET is given Rubik's objective, that "
        f"alone makes its own {times('duet', 'links', 'max_link_less')} times lower, and Rubik is "
        f"{times('rubik', 'links', 'max_link_less_alike')} times below that. Locality alone gains little "
        f"({times('locality', 'links', 'bandwidth_less')} times less bandwidth), since DIPs stand where no "
        "source is."
    )


def _time() -> str:
    data = summary("smuxes")
    if "command" not in data:
        return "How long these runs took was not kept."
    took, cpu, seeds, cores = data["command"], data["cpu_s"], data["seeds"], data["machine"]["cores"]
    each = cpu / seeds
    whole = took["computed"] == data["runs"]
    spent = (
        f"they took {took['seconds'] / 60:.0f} minutes on {took['workers']} of {cores} cores"
        if whole
        else f"they were computed in several parts on a machine of {cores} cores with other work to do"
    )
    return (
        f"{seeds} seeds of figure 16 ({data['runs']:,} runs) are {cpu:,.0f} CPU seconds, {each:.1f} a seed; "
        f"{spent}. Tasks share nothing but a seed's trace, which each worker draws in a second, and the "
        f"longest "
        f"is a bound of a few seconds. So 500 seeds are {500 * each / 60:.0f} minutes of one core, half of "
        f"that "
        f"on two, and some {500 * each / 100 + 5:.0f} seconds of a cluster of a hundred."
    )


def _measured() -> str:
    found = {path.stem: summary(path.stem, TESTBED) for path in sorted(TESTBED.glob("*.json"))}
    of_machine: dict[str, list[str]] = {}
    for name, one in found.items():
        machine = one["machine"]
        told = f"{machine['cores']} cores ({machine['cpu']}, {machine['kernel']})"
        of_machine.setdefault(told, []).append(name)
    bringups = span([float(one["bringups"]) for one in found.values() if "bringups" in one])
    discarded = sum(one.get("discarded", 0) for one in found.values())
    most_first = sorted(of_machine.items(), key=lambda item: -len(item[1]))
    since = min(one["machine"]["date"] for one in found.values())[:10]
    return (
        f"Measured from {since} on, {bringups} bring-ups each, {discarded} runs discarded, "
        + "; ".join(f"on {machine}: {listed(names)}" for machine, names in most_first)
        + ". `make experiments` draws them anew."
    )


def _lost_pings() -> str:
    data = summary("capacity", TESTBED)
    slow = data["illustration"]["phases"]["smux_above"]
    return (
        "**Capacity** (figure 11), scaled: one XDP SMux, in front of which stands its interface's ring of "
        "256 frames, emptied by a kernel thread on a CPU of its own, which also takes each packet the rest "
        "of its way. At 2/3 of its capacity "
        f"{shown(data['pings_lost']['smux_below'], 1, 100)}% of the pings are lost: a ring of 256 frames is "
        "1 ms of that load, and its thread waits longer for its CPU now and then, as other nodes' processes "
        "run there, too; the paper's SMuxes, with machines of their own, lose none. At 4/3 it overflows: "
        f"{shown(data['pings_lost']['smux_above'], 1, 100)}% of the pings are lost. The ring is short, so "
        f"that those that are answered wait for {shown(data['latency_ms_median']['smux_above'], 2)} ms and "
        "not for tens of ms, which take a long queue in front of something slow: right, as an illustration, "
        f"one process with the Scapy data path, where it is {slow['latency_ms_median']:.0f} ms and "
        f"{slow['pings_lost']:.0%} are lost. The HMux phase carries what one CPU generates while it also "
        "forwards it; the frames are made in the kernel."
    )


SENTENCES: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
    "bound": (_bound, ("smuxes",)),
    "elephants-bound": (_elephants_bound, ("smuxes", "elephants", "random")),
    "smuxes": (_smuxes, ("smuxes",)),
    "elephants": (_elephants, ("elephants",)),
    "ended": (_ended, ("smuxes",)),
    "counting": (_counting, ("smuxes",)),
    "latency": (_latency, ("latency",)),
    "random": (_random, ("random",)),
    "failures": (_failures, ("failures",)),
    "migration": (_migration, ("migration", "assumptions")),
    "shuffle": (_shuffle, ("shuffle",)),
    "rubik": (_rubik, ("rubik",)),
    "time": (_time, ("smuxes",)),
}
"""What writes a block of simulation.md, and of which summaries."""

MEASURED: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
    "measured": (_measured, ()),
    "capacity": (_lost_pings, ("capacity",)),
}
"""The same for experiments.md."""


def said(name: str) -> str | None:
    """Return the sentences of a block, or None where a summary of theirs is not kept."""
    if name in MEASURED:
        write, needs = MEASURED[name]
        known = all(there(one, TESTBED) for one in needs) and any(TESTBED.glob("*.json"))
    else:
        write, needs = SENTENCES[name]
        known = all(there(one) for one in needs)
    return write() if known else None
