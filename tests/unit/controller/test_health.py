from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from controller.updater.health import AT_ONCE_S, DOUBT_S, HealthJudge
from duet_p4.model import VIP_CHECK, Checked, Dip, Vip

VIP = IPv4Address("10.0.0.1")


def dips(count: int) -> list[IPv4Address]:
    return [IPv4Address("100.0.0.1") + i for i in range(count)]


def spec(count: int) -> Vip:
    return Vip(address=VIP, dips=tuple(Dip(address=dip) for dip in dips(count)))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def judged(
    judge: HealthJudge, vip: Vip, down: set[IPv4Address], told: dict[IPv4Address, bool], certain: bool = False
) -> set[IPv4Address]:
    """Apply what a judge believes; returns who is newly suspected."""
    known = frozenset(map(Checked, down))
    changes, suspected = judge.judge(vip, known, told, certain=certain)
    down |= {checked.dip for checked, is_down in changes.items() if is_down}
    down -= {checked.dip for checked, is_down in changes.items() if not is_down}
    return suspected


def test_single_dips_go_down_and_up_at_once() -> None:
    judge, down = HealthJudge(Clock()), set[IPv4Address]()
    assert judged(judge, spec(3), down, {dips(3)[0]: False}) == set()
    assert down == {dips(3)[0]}
    judged(judge, spec(3), down, {dips(3)[0]: True})
    assert down == set()


def test_most_of_a_vips_dips_at_once_are_kept_and_believed_only_after_a_while() -> None:
    clock = Clock()
    judge, down = HealthJudge(clock), set[IPv4Address]()
    told = dict.fromkeys(dips(5)[:3], False)
    assert judged(judge, spec(5), down, told) == set(dips(5)[:3])
    assert judged(judge, spec(5), down, told) == set(), "it is said once"
    assert down == set()
    assert judge.suspected(VIP) == set(dips(5)[:3])
    clock.now += DOUBT_S + 1
    assert judge.confirmed() == {(VIP, VIP_CHECK): set(dips(5)[:3])}
    judged(judge, spec(5), down, told, certain=True)
    assert down == set(dips(5)[:3]) and judge.suspected(VIP) == set()


def test_what_recovers_in_doubt_was_never_down() -> None:
    clock = Clock()
    judge, down = HealthJudge(clock), set[IPv4Address]()
    judged(judge, spec(4), down, dict.fromkeys(dips(4), False))
    judged(judge, spec(4), down, dict.fromkeys(dips(4), True))
    clock.now += DOUBT_S + 1
    assert judge.confirmed() == {} and down == set()
    assert judge._doubts == {}, "nothing is remembered of it"


def test_dips_that_die_one_by_one_over_time_all_go() -> None:
    clock = Clock()
    judge, down = HealthJudge(clock), set[IPv4Address]()
    for dip in dips(4)[:3]:
        judged(judge, spec(4), down, {dip: False})
        clock.now += AT_ONCE_S + 1
    assert down == set(dips(4)[:3])


def test_what_is_certain_is_not_doubted() -> None:
    judge, down = HealthJudge(Clock()), set[IPv4Address]()
    judged(judge, spec(3), down, dict.fromkeys(dips(3)[:2], False), certain=True)
    assert down == set(dips(3)[:2])


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.floats(0, 3)), max_size=60))
def test_checks_never_take_more_than_half_out_within_a_moment(steps: list[tuple[int, bool, float]]) -> None:
    clock = Clock()
    judge, down = HealthJudge(clock), set[IPv4Address]()
    taken: list[tuple[float, IPv4Address]] = []
    for number, up, pause in steps:
        before = set(down)
        judged(judge, spec(7), down, {dips(7)[number]: up})
        taken += [(clock.now, dip) for dip in down - before]
        recent = {dip for when, dip in taken if when >= clock.now - AT_ONCE_S and dip in down}
        assert len(recent) <= 1 or 2 * len(recent) <= 7
        clock.now += pause
