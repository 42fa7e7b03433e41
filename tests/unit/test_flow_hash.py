"""Flow hashes spread what clients really do as a fair coin would, and each says nothing about the others."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from itertools import combinations, pairwise

import pytest
from scipy.stats import chi2, chisquare

from duet_p4.flow_hash import Flow, flow_hash, mix, tip_hash, underlay_hash

A = IPv4Address
SEEDS = (0x1B2C3D4E, 0xDEADBEEF, 0x5EED0001, 0x9E3779B9)
CONNECTIONS = 60


def client_sequences(kind: str, count: int) -> Iterator[list[Flow]]:
    """Yield the flows of runs of consecutive connections of one client (or of one NAT's clients)."""
    rng = random.Random(kind)
    for _ in range(count):
        source = IPv4Address(rng.randrange(0x0B000000, 0xDF000000))
        vip = IPv4Address("10.0.0.0") + rng.randrange(1, 65536)
        port = rng.choice((80, 443, 53, 22, 8080, 0))
        first = rng.randrange(1024, 60000)
        step = {"rising": 1, "even": 2, "stepped": rng.choice((3, 4, 5, 8, 16, 64, 256, 512))}.get(kind, 0)
        flows = []
        for n in range(CONNECTIONS):
            match kind:
                case "rising" | "even" | "stepped":
                    flow = (source, (first + step * n) % 65536)
                case "random":
                    flow = (source, rng.randrange(32768, 60999))
                case "addresses of a NAT":
                    flow = (source + n, first)
                case _:
                    raise AssertionError(kind)
            flows.append(Flow(flow[0], vip, 6, flow[1], port))
        yield flows


@pytest.mark.parametrize("dips", [2, 3, 4, 8, 16, 64])
@pytest.mark.parametrize("kind", ["rising", "even", "stepped", "random", "addresses of a NAT"])
@pytest.mark.parametrize("hashed", [flow_hash, tip_hash])
def test_sixty_connections_in_a_row_are_spread_as_by_chance(
    kind: str, dips: int, hashed: Callable[[Flow], int]
):
    runs = 400
    statistics = []
    for flows in client_sequences(kind, runs):
        shares = Counter(hashed(flow) % dips for flow in flows)
        expected = CONNECTIONS / dips
        statistics.append(sum((shares[dip] - expected) ** 2 / expected for dip in range(dips)))
    # A sum of chi-squares is one, too; 60 flows being few per DIP, only its mean is looked at.
    total = sum(statistics)
    degrees = runs * (dips - 1)
    assert total / degrees == pytest.approx(1, abs=0.25), f"{kind} over {dips} DIPs"
    worst = chi2.ppf(1 - 1e-7, dips - 1)
    assert max(statistics) < max(worst, 40), f"one run of {kind} over {dips} DIPs went to few of them"


def random_flows(count: int) -> list[Flow]:
    rng = random.Random(4)
    return [
        Flow(
            IPv4Address(rng.randrange(1 << 32)),
            IPv4Address("10.0.0.0") + rng.randrange(65536),
            6,
            rng.randrange(1024, 65536),
            80,
        )
        for _ in range(count)
    ]


def rack_flows(count: int) -> list[Flow]:
    """Flows of the servers of one rack to one VIP, by connect()'s even ports."""
    vip = IPv4Address("10.0.0.4")
    return [Flow(IPv4Address("100.1.1.1") + n % 64, vip, 6, 32768 + 2 * (n // 64), 80) for n in range(count)]


HASHES: dict[str, Callable[[Flow], int]] = {
    "VIP": flow_hash,
    "TIP": tip_hash,
    **{f"underlay {seed:#x}": lambda flow, seed=seed: underlay_hash(flow, seed) for seed in SEEDS},
}


@pytest.mark.parametrize("flows", [random_flows, rack_flows])
def test_no_stage_is_in_step_with_another(flows: Callable[[int], list[Flow]]):
    sample = flows(20_000)
    values = {name: [hashed(flow) for flow in sample] for name, hashed in HASHES.items()}
    for (one, first), (other, second) in combinations(values.items(), 2):
        for n, m in ((2, 2), (4, 4), (2, 3), (16, 2), (8, 8)):
            joint = Counter((a % n, b % m) for a, b in zip(first, second, strict=True))
            p = chisquare([joint[a, b] for a in range(n) for b in range(m)]).pvalue
            assert p > 1e-7, f"{one} modulo {n} tells of {other} modulo {m}"


def flipped(flow: Flow, bit: int) -> Flow:
    """Return the flow with one of its 104 bits changed."""
    fields = [int(flow.source), int(flow.destination), flow.protocol, flow.source_port, flow.destination_port]
    for number, width in enumerate((32, 32, 8, 16, 16)):
        if bit < width:
            fields[number] ^= 1 << bit
            break
        bit -= width
    return Flow(IPv4Address(fields[0]), IPv4Address(fields[1]), *fields[2:])


@pytest.mark.parametrize("hashed", [flow_hash, tip_hash])
def test_every_bit_of_a_flow_changes_half_of_the_low_bits_of_its_hash(hashed: Callable[[Flow], int]):
    flows = random_flows(500)
    before = [hashed(flow) for flow in flows]
    for bit in range(104):
        after = [hashed(flipped(flow, bit)) for flow in flows]
        changed = sum(((a ^ b) & 0xFFF).bit_count() for a, b in zip(before, after, strict=True))
        assert changed / len(flows) / 12 == pytest.approx(0.5, abs=0.15), f"bit {bit}"


def test_a_key_moves_flows_to_other_slots():
    flows = random_flows(4000)
    plain = [flow_hash(flow) % 16 for flow in flows]
    keyed = [flow_hash(flow, key=0x12345678) % 16 for flow in flows]
    same = sum(a == b for a, b in zip(plain, keyed, strict=True))
    assert same == pytest.approx(len(flows) / 16, rel=0.3)


def test_neighbouring_seeds_of_switches_differ():
    values = [mix(0x01020304, seed) for seed in SEEDS]
    assert all(a != b for a, b in pairwise(values))


GOLDEN = [
    (Flow(A("0.0.0.0"), A("0.0.0.0"), 0, 0, 0), 0x0F086C4C, 0x533C526E, 0xEAD15C8B),
    (Flow(A("100.1.1.1"), A("10.0.0.1"), 6, 40000, 80), 0x3A000C29, 0x1F8DBCC7, 0x0CBE548E),
    (Flow(A("198.51.100.7"), A("10.0.0.4"), 17, 53, 53), 0xC622F8F2, 0xDB719442, 0x92F01747),
    (
        Flow(A("255.255.255.255"), A("255.255.255.255"), 255, 65535, 65535),
        0xF53A1146,
        0xA90E2F6A,
        0x826B69B3,
    ),
    (Flow(A("100.2.1.1"), A("10.0.0.1"), 1, 77, 0), 0x821A594B, 0xBB5663A0, 0x5CA1E67F),
]


@pytest.mark.parametrize(("flow", "vip", "tip", "underlay"), GOLDEN)
def test_values_are_these_in_every_language(flow: Flow, vip: int, tip: int, underlay: int):
    """Others that compute the hashes may check themselves against these."""
    assert (flow_hash(flow), tip_hash(flow), underlay_hash(flow, 0x9E3779B9)) == (vip, tip, underlay)
