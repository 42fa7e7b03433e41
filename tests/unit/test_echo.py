"""When a neighbour counts as silent, and when it does not: by what becomes of echoes."""

from ipaddress import IPv4Address, IPv4Interface

from hypothesis import given
from hypothesis import strategies as st

from duet_p4.checksum import checksum
from duet_p4.switch_agent.config import PortConfig
from duet_p4.switch_agent.echo import Liveness, _headers

FALL, RISE_S, ROUND_S = 4, 1.0, 0.05


class Rounds:
    """Rounds of echoes by some ports; each round says by which of them they come back."""

    def __init__(self, *ports: int) -> None:
        self.liveness = Liveness(dict.fromkeys(ports, True), FALL, RISE_S)
        self.now_s = 0.0
        self.silent: set[int] = set()

    def round(self, *back: int) -> None:
        for number in self.liveness.due():
            self.liveness.sent(number)
        self.now_s += ROUND_S
        for number, silent in self.liveness.answered(set(back).__contains__, self.now_s).items():
            assert silent == (number not in self.silent), "only changes are told"
            (self.silent.add if silent else self.silent.discard)(number)

    def meet(self, *ports: int) -> "Rounds":
        """Have every port heard."""
        for _ in range(20):
            self.round(*ports)
        return self


def test_a_neighbour_is_silent_after_so_many_misses_in_a_row_while_another_answers() -> None:
    rounds = Rounds(1, 2).meet(1, 2)
    for _ in range(FALL - 1):
        rounds.round(2)
    assert not rounds.silent and rounds.liveness.doubtful() is False, "none is under way"
    rounds.round(1, 2)
    for _ in range(FALL - 1):
        rounds.round(2)
    assert not rounds.silent, "one that came ends the row"
    rounds.round(2)
    assert rounds.silent == {1}


def test_doubt_has_the_next_echo_sent_soon() -> None:
    rounds = Rounds(1, 2).meet(1, 2)
    rounds.round(2)
    for number in rounds.liveness.due():
        rounds.liveness.sent(number)
    assert rounds.liveness.doubtful() and rounds.liveness.due()[0] == 1


def test_that_nothing_comes_back_at_all_says_nothing_of_neighbours() -> None:
    rounds = Rounds(1, 2).meet(1, 2)
    for _ in range(100):
        rounds.round()
    assert not rounds.silent


def test_a_port_by_which_no_echo_ever_came_is_asked_seldom_and_never_in_doubt() -> None:
    rounds = Rounds(1, 2, 3).meet(1, 2)
    assert sum(3 in rounds.liveness.due() for _ in range(40)) == 40, "a new one is asked in every round"
    assert sum(3 in rounds.liveness.due() for _ in range(100)) == 5
    for _ in range(100):
        rounds.round(1, 2)
    assert not rounds.silent


def test_a_silent_port_is_used_again_once_echoes_come_for_a_while_and_later_where_it_flaps() -> None:
    rounds = Rounds(1, 2).meet(1, 2)
    waits = []
    for _ in range(9):
        while not rounds.silent:
            rounds.round(2)
        began = rounds.now_s
        while rounds.silent:
            rounds.round(1, 2)
        waits.append(rounds.now_s - began)
    assert RISE_S <= waits[0] <= RISE_S + 3 * ROUND_S
    assert waits[-1] > 2 * RISE_S, waits


def test_a_link_that_was_down_is_a_new_one() -> None:
    rounds = Rounds(1, 2).meet(1, 2)
    for _ in range(FALL):
        rounds.round(2)
    rounds.liveness.carrier_changed(1, False)
    assert 1 not in rounds.liveness.due()
    rounds.liveness.carrier_changed(1, True)
    rounds.silent.discard(1)
    for _ in range(100):
        rounds.round(2)
    assert not rounds.silent, "nothing was ever heard of the new one"


@given(st.lists(st.sets(st.sampled_from([1, 2, 3])), max_size=120))
def test_at_no_time_are_all_ports_silent(history: list[set[int]]) -> None:
    rounds = Rounds(1, 2, 3).meet(1, 2, 3)
    for back in history:
        rounds.round(*back)
        assert len(rounds.silent) < 3


def test_an_echo_is_a_packet_to_the_switch_itself_by_way_of_the_neighbour() -> None:
    port = PortConfig(
        number=1,
        interface="eth1",
        mac="02:00:00:00:00:07",
        address=IPv4Interface("172.31.0.2/31"),
        peer=IPv4Address("172.31.0.3"),
        mtu=1600,
    )
    frame = bytes(6) + _headers(IPv4Address("172.30.0.1"), port) + bytes(8)
    assert frame[6:12] == bytes.fromhex("020000000007")
    assert checksum(frame[14:34]) == 0 and len(frame) - 14 == int.from_bytes(frame[16:18])
    assert frame[22] == 255 and frame[30:34] == port.address.ip.packed
    assert int.from_bytes(frame[36:38]) == 3785 and int.from_bytes(frame[38:40]) == len(frame) - 34
