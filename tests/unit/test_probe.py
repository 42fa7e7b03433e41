import math
from ipaddress import IPv4Address

import numpy as np
import pytest

from mininet_topos.experiments.probe import Prober, Samples


def samples(lost: list[int], late: float = 0.0) -> Samples:
    due = np.arange(10) * 0.003
    sent = (due + late)[:, None]
    received = sent + 0.001
    received[lost] = np.nan
    return Samples((IPv4Address("10.0.0.1"),), 0.003, due, sent, received)


def test_an_outage_lasts_from_the_first_lost_request_to_the_next_answered_one() -> None:
    assert samples([3, 4]).outages(0) == [(pytest.approx(0.009), pytest.approx(0.006))]
    assert samples([]).outages(0) == []
    assert samples([8, 9]).outages(0) == [(pytest.approx(0.024), pytest.approx(0.006))]


def test_a_late_prober_is_told_from_a_slow_network() -> None:
    assert not samples([1, 2, 3]).stalled()
    assert samples([], late=0.002).stalled()


def test_how_late_a_ping_left_about_a_moment_is_known_and_no_ping_is_worst() -> None:
    found = samples([], late=0.002)
    begin, end = float(found.due[0]), float(found.due[-1]) + 1
    assert found.worst_lateness(begin, end) == pytest.approx(0.002)
    assert found.worst_lateness(end, end + 1) == math.inf


def test_targets_that_take_turns_are_one_whose_outages_are_as_fine_as_their_turns() -> None:
    due = np.arange(10) * 0.003
    sent = due[:, None] + np.arange(3) * 0.001
    received = sent + 0.0005
    received[2, 1:] = received[5, 0] = np.nan
    found = Samples((IPv4Address("10.0.0.1"),) * 3, 0.003, due, sent, received, spacing_s=0.001)
    assert found.outages_of_all() == [
        (pytest.approx(0.007), pytest.approx(0.002)),
        (pytest.approx(0.015), pytest.approx(0.001)),
    ]
    assert found.resolution_s == 0.001 and not found.stalled()
    assert np.allclose(found.lateness, 0)


def test_what_cannot_be_probed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one target"):
        Prober([], 0.003, 10)
    with pytest.raises(ValueError, match="0 rounds"):
        Prober([IPv4Address("10.0.0.1")], 0.003, 0)
