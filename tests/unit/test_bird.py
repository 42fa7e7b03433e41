import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from duet_p4.bird.config import BirdConfig, Neighbor, render
from duet_p4.bird.daemon import Bird, BirdError
from duet_p4.bird.policy import PrefixRange

VIPS = PrefixRange(network=IPv4Network("10.0.0.0/16"), shortest=16, longest=32)
LOOPBACKS = PrefixRange(network=IPv4Network("172.30.0.0/16"), shortest=32, longest=32)


def neighbor(name: str = "agg-1-1", port: int = 1) -> Neighbor:
    return Neighbor(
        name=name,
        interface=f"hif{port}",
        local=IPv4Address(f"172.31.0.{2 * port}"),
        address=IPv4Address(f"172.31.0.{2 * port + 1}"),
        asn=4_200_000_002,
    )


def config(**changes: Any) -> BirdConfig:
    settings: dict[str, Any] = {
        "router_id": "172.30.0.1",
        "asn": 4_200_000_001,
        "neighbors": [neighbor(), neighbor("agg-1-2", 2)],
        "space": [VIPS, LOOPBACKS],
        "originated": ["172.30.0.1/32"],
    }
    return BirdConfig.model_validate(settings | changes)


def test_a_neighbour_is_written_with_its_link_and_as() -> None:
    text = render(config(), Path("/run/bird.log"))
    assert (
        "protocol bgp bgp_agg_1_1 from fabric {\n"
        '  description "agg-1-1";\n'
        "  neighbor 172.31.0.3 as 4200000002;\n"
        "  source address 172.31.0.2;\n"
        '  interface "hif1";\n'
        "  bfd on;\n"
        "  ipv4 {\n"
    ) in text
    assert "  route 172.30.0.1/32 blackhole;\n" in text
    assert "define SPACE = [ 10.0.0.0/16{16,32}, 172.30.0.0/16{32,32} ];" in text


def test_only_transit_nodes_pass_on_what_they_learn() -> None:
    log = Path("bird.log")
    own_only = "    if source = RTS_BGP then reject;"
    assert own_only not in render(config(), log)
    assert own_only in render(config(transit=False), log)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transit": False, "allow_own_as": 1, "neighbors": []},
        {"originated": [], "bfd": {"interval_ms": 100, "multiplier": 3}, "max_paths": 64},
        {"timers": {"hold": 3, "keepalive": 1, "connect_retry": 5}},
    ],
)
def test_bird_accepts_every_configuration(changes: dict[str, Any], tmp_path: Path) -> None:
    binary = shutil.which("bird", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if binary is None:
        pytest.skip("bird is not installed")
    file = tmp_path / "bird.conf"
    file.write_text(render(config(**changes), tmp_path / "bird.log"))
    checked = subprocess.run([binary, "-p", "-c", file], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"neighbors": [neighbor(), neighbor("agg-1-2")]}, "172.31.0.3"),
        ({"neighbors": [neighbor("agg-1"), neighbor("agg.1", 2)]}, "bgp_agg_1"),
        ({"originated": ["192.0.2.0/24"]}, "192.0.2.0/24"),
        ({"announce_table": 254}, "254"),
        ({"space": [{"network": "10.0.0.0/16", "shortest": 8, "longest": 32}]}, "10.0.0.0/16"),
        ({"asn": 0}, "asn"),
    ],
)
def test_a_contradiction_is_refused_and_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        config(**changes)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BirdError, match="too long"):
        Bird(config(), tmp_path / ("x" * 100))
