"""Who announces an address is read from the kernels of the switches, and no two may."""

import os
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mininet_topos.experiments.announcers import Announcers
from tests.integration.netns import ip, namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
FIRST, SECOND = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


@pytest.fixture
def switches() -> Iterator[dict[str, Path]]:
    with namespaces("an1", "an2") as names:
        yield {name: Path("/run/netns") / name for name in names}


def test_an_address_that_moves_is_announced_once_and_one_that_two_announce_is_told(
    switches: dict[str, Path],
) -> None:
    one, other = switches
    ip(f"route add blackhole {FIRST}/32 table 100", one)
    with Announcers(switches) as announcers:
        for _ in range(5):
            ip(f"route del blackhole {FIRST}/32 table 100", one)
            ip(f"route add blackhole {FIRST}/32 table 100", other)
            ip(f"route del blackhole {FIRST}/32 table 100", other)
            ip(f"route add blackhole {FIRST}/32 table 100", one)
        ip(f"route add blackhole {SECOND}/32", one)
        ip(f"route add blackhole {SECOND}/32 table 100", other)
        await_changes(announcers, 1 + 20 + 1)
        assert announcers.overlaps == []
        ip(f"route add blackhole {SECOND}/32 table 100", one)
        await_changes(announcers, 23)
    assert [(found.address, set(found.switches)) for found in announcers.overlaps] == [(SECOND, {one, other})]
    assert not announcers.failure


def await_changes(announcers: Announcers, count: int) -> None:
    deadline = time.monotonic() + 30
    while announcers.changes < count:
        assert time.monotonic() < deadline, f"{announcers.changes} changes were seen, not {count}"
        time.sleep(0.01)
