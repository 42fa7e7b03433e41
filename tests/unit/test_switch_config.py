from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from duet_p4.switch_agent.config import SwitchConfig

TOFINO = {"conf": "/opt/hmux_tna.conf", "cpu_interface": "ens1"}


def port(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "number": number,
        "interface": f"eth{number}",
        "mac": f"02:00:00:00:00:{number:02x}",
        "address": f"172.31.0.{2 * number}/31",
        "peer": f"172.31.0.{2 * number + 1}",
        "mtu": 1600,
    } | changes


def config(**changes: Any) -> SwitchConfig:
    neighbor = {
        "name": "agg-1",
        "interface": "eth1",
        "local": "172.31.0.2",
        "address": "172.31.0.3",
        "asn": 65002,
    }
    settings: dict[str, Any] = {
        "name": "tor-1",
        "address": "172.30.0.1",
        "ports": [port(1), port(2, prefixes=["100.1.1.16/28"])],
        "bird": {
            "router_id": "172.30.0.1",
            "asn": 65001,
            "neighbors": [neighbor],
            "space": [
                {"network": "100.0.0.0/8", "shortest": 24, "longest": 24},
                {"network": "172.30.0.0/16", "shortest": 32, "longest": 32},
            ],
        },
        "originated": ["100.1.1.0/24"],
        "seed": 7,
        "state_dir": "/run/x",
        "listen": "198.18.0.1",
        "credentials": "/etc/duet",
        "p4": {"address": "unix:/run/x/p4"},
    }
    return SwitchConfig.model_validate(settings | changes)


def test_bird_runs_on_the_taps_and_announces_what_is_the_switchs_own() -> None:
    routing = config().routing()
    assert [neighbor.interface for neighbor in routing.neighbors] == ["hif1"]
    assert routing.originated == (IPv4Network("172.30.0.1/32"), IPv4Network("100.1.1.0/24"))


def test_a_configuration_survives_json() -> None:
    one = config(pins=Path("/sys/fs/bpf/x"))
    assert SwitchConfig.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ports": [port(1), port(1)]}, "number 1"),
        ({"ports": [port(1), port(2, interface="eth1")]}, "interface eth1"),
        ({"ports": [port(1), port(2, peer="172.31.0.9")]}, "172.31.0.9 is not at the other end"),
        ({"ports": [port(1, mac="03:00:00:00:00:01")]}, "03:00:00:00:00:01 is a group's"),
        ({"ports": [port(1, mac="no")]}, "'no' is no Ethernet address"),
        ({"ports": [port(2)]}, "agg-1 is at eth1, which is none of the ports"),
        ({"ports": [port(1, address="172.31.0.3/31", peer="172.31.0.2")]}, "port 1 is 172.31.0.3"),
        ({"ports": [port(1) | {"number": 510}]}, "510"),
        ({"ports": []}, "ports"),
        ({"seed": -1}, "seed"),
        ({"credentials": None}, "no credentials"),
        ({"insecure": True}, "choose one"),
        ({"p4": {"address": "unix:here"}}, "unix:here"),
        ({"p4": {"address": "unix:/p4", "target": "tofino2"}}, "target tofino2 needs `tofino`"),
        ({"p4": {"address": "unix:/p4", "tofino": TOFINO}}, "target xdp has no use for `tofino`"),
        (
            {"p4": {"address": "unix:/p4", "target": "tofino3", "tofino": TOFINO}},
            "for tofino1 and tofino2, not for tofino3",
        ),
        ({"p4": {"address": "unix:/p4", "target": "tofino2", "tofino": TOFINO}}, "port 1 has no cable"),
        (
            {"p4": {"address": "unix:/p4", "target": "tofino1", "tofino": TOFINO}, "ports": [port(68)]},
            "port 68 has no cable on a tofino1: its ports are 0 to 63",
        ),
        ({"p4": {"address": "unix:/p4", "target": "tofino2", "tofino": TOFINO | {"server": "x"}}}, "server"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_contradiction_is_refused_and_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        config(**changes)
