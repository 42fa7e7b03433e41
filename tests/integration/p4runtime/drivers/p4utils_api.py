"""Drive a switch with p4-utils' API: `p4utils_api.py CLONE PORT P4INFO JSON`, by p4runtime-shell's Python."""

from __future__ import annotations

import socket
import sys
import time


def wait(port: int) -> None:
    """Wait until the switch listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def main(clone: str, port: str, info: str, program: str) -> None:
    """Do what controllers of its exercises do; its methods print what is refused, and return None."""
    sys.path.insert(0, clone)
    from p4utils.utils.sswitch_p4runtime_API import SimpleSwitchP4RuntimeAPI

    wait(int(port))
    api = SimpleSwitchP4RuntimeAPI(1, int(port), "127.0.0.1", info, program)
    try:
        assert api.table_add("host", "drop", ["10.0.0.8"])
        api.reset_state()
        assert api.table_add("host", "forward", ["10.0.0.7"], ["1", "02:00:00:00:00:01"], pkts=4, byts=256)
        assert api.table_add("host", "forward", ["10.0.0.7"], ["1", "02:00:00:00:00:01"]) is None, "twice"
        assert api.direct_counter_read("host_counter", ["10.0.0.7"]) == (256, 4)
        assert api.direct_counter_write("host_counter", ["10.0.0.7"], pkts=5, byts=6)
        assert api.direct_counter_read("host_counter", ["10.0.0.7"]) == (6, 5)
        assert api.direct_counter_reset("host_counter")
        assert api.table_modify_match("host", "drop", ["10.0.0.7"])
        assert api.table_add("route", "drop", ["10.1.0.0/16"])
        assert api.table_set_default("keyless", "drop")
        assert api.table_reset_default("keyless")
        assert api.table_clear("host")
        assert api.table_clear("route")
        assert api.counter_write("drops", 3, pkts=11, byts=12)
        assert api.counter_read("drops", 3) == (12, 11)
        assert api.counter_reset("drops")
        assert api.mc_mgrp_create(5, [1, 2], [1, 2])
        assert api.mc_get_replicas(5) == ([1, 2], [1, 2])
        assert api.mc_set_replicas(5, [1])
        assert api.mc_mgrp_destroy(5)
        assert api.cs_create(9, [1], packet_length=64)
        assert api.cs_destroy(9)
    finally:
        api.teardown()
    print("driven")


if __name__ == "__main__":
    main(*sys.argv[1:])
