"""Clones, multicast, resubmit, recirculate, digests and meters, on programs made here."""

from __future__ import annotations

import time
from threading import Thread

import pytest

from duet_p4.xdp_switch.dataplane import Call
from duet_p4.xdp_switch.meters import MeterRates
from tests.integration.xdp_switch import programs
from tests.integration.xdp_switch.copies import FIELDS, FRAME, document, primitive, words
from tests.integration.xdp_switch.programs import action, assign, field, number, program, running


def test_multicast_reaches_every_replica_with_its_instance_and_what_ingress_changed() -> None:
    made = document(
        [
            assign(field("standard_metadata", "mcast_grp"), number(5)),
            assign(field("input", "word"), number(1000)),
        ],
        [assign(field("input", "rest"), field("standard_metadata", "egress_rid"))],
    )
    with running(made) as pipeline:
        assert pipeline.replay(FRAME, 3) == [], "a group without members reaches nobody"
        pipeline.multicast.put(5, [(2, 20), (4, 40), (2, 21)])
        assert words(pipeline.replay(FRAME, 3)) == [(2, 1000, 20), (4, 1000, 40), (2, 1000, 21)]
        pipeline.multicast.put(5, [(6, 60)])
        assert words(pipeline.replay(FRAME, 3)) == [(6, 1000, 60)]
        pipeline.multicast.remove(5)
        assert pipeline.replay(FRAME, 3) == []
        assert pipeline.drops()["by_program"] == 2


def test_an_ingress_clone_is_the_packet_as_it_came_in_with_the_fields_it_preserves() -> None:
    made = document(
        [
            assign(field("scalars", "kept"), number(77)),
            assign(field("scalars", "temporary"), number(88)),
            primitive("clone_ingress_pkt_to_egress", number(9), number(1)),
            assign(field("input", "word"), number(1000)),
        ],
        [
            assign(
                field("input", "rest"),
                {
                    "type": "expression",
                    "value": {
                        "op": "+",
                        "left": {
                            "type": "expression",
                            "value": {
                                "op": "+",
                                "left": field("scalars", "kept"),
                                "right": field("scalars", "temporary"),
                            },
                        },
                        "right": field("standard_metadata", "instance_type"),
                    },
                },
            )
        ],
        [("scalars", "kept")],
    )
    with running(made) as pipeline:
        assert words(pipeline.replay(FRAME, 3)) == [(1, 1000, 165)]
        pipeline.clones.put(9, [(5, 0)])
        assert words(pipeline.replay(FRAME, 3)) == [(5, 7, 78), (1, 1000, 165)]
        pipeline.clones.put(9, [(5, 0), (6, 1)], truncate=18)
        left = pipeline.replay(FRAME, 3)
        assert words(left) == [(5, 7, 78), (6, 7, 78), (1, 1000, 165)]
        assert [len(data) for _, data in left] == [18, 18, len(FRAME)]


def test_an_egress_clone_has_the_headers_of_egress_and_passes_egress_again() -> None:
    made = document(
        [],
        [
            primitive(
                "_jump_if_zero",
                {
                    "type": "expression",
                    "value": {
                        "op": "==",
                        "left": field("standard_metadata", "instance_type"),
                        "right": number(0),
                    },
                },
                number(3),
            ),
            primitive("clone_egress_pkt_to_egress", number(3), number(1)),
            assign(field("input", "word"), number(500)),
            assign(field("input", "rest"), field("standard_metadata", "instance_type")),
        ],
    )
    with running(made) as pipeline:
        pipeline.clones.put(3, [(8, 0)])
        assert words(pipeline.replay(FRAME, 3)) == [(1, 500, 0), (8, 500, 2)]


@pytest.mark.parametrize("op", ["resubmit", "recirculate"])
def test_a_packet_goes_round_with_the_fields_it_preserves(op: str) -> None:
    once = primitive(
        "_jump_if_zero",
        {
            "type": "expression",
            "value": {"op": "==", "left": field("scalars", "kept"), "right": number(0)},
        },
        number(3),
    )
    steps = [once, assign(field("scalars", "kept"), number(5)), primitive(op, number(1))]
    last = assign(field("input", "rest"), field("scalars", "kept"))
    changed = assign(
        field("input", "word"),
        {"type": "expression", "value": {"op": "+", "left": field("input", "word"), "right": number(1)}},
    )
    if op == "resubmit":
        made = document([*steps, changed], [last], [("scalars", "kept")])
        expected = [(1, 8, 5)]
    else:
        made = document([], [*steps, changed, last], [("scalars", "kept")])
        expected = [(1, 9, 5)]
    with running(made) as pipeline:
        assert words(pipeline.replay(FRAME, 3)) == expected


def test_a_packet_that_goes_round_for_ever_is_dropped_and_counted() -> None:
    with running(document([primitive("resubmit", number(1))])) as pipeline:
        assert pipeline.replay(FRAME, 3) == []
        assert pipeline.drops()["passes"] == 1


def test_digests_tell_what_fields_are_at_the_end_of_ingress() -> None:
    made = document(
        [
            primitive("generate_digest", number(1), number(4)),
            assign(field("input", "word"), number(1000)),
        ]
    )
    made["learn_lists"] = [
        {
            "id": 4,
            "name": "seen_t",
            "elements": [
                {"type": "field", "value": ["input", "word"]},
                {"type": "field", "value": ["input", "more"]},
            ],
        }
    ]
    with running(made) as pipeline:
        assert pipeline.digests.poll() == []
        for value in range(3000):
            frame = programs.pack(FIELDS, {"word": 7, "more": (1 << 63) + value}) + bytes(20)
            pipeline.replay(frame, 3)
            assert pipeline.digests.poll() == [("seen_t", (1000, (1 << 63) + value))]
        assert pipeline.digests.lost == 0


def test_a_meter_lets_bursts_pass_and_colours_what_is_above() -> None:
    made = document(
        [
            primitive(
                "execute_meter",
                {"type": "meter_array", "value": "limit"},
                number(2),
                field("scalars", "kept"),
            ),
            assign(field("input", "rest"), field("scalars", "kept")),
        ]
    )
    made["meter_arrays"] = [
        {
            "name": "limit",
            "id": 0,
            "is_direct": False,
            "size": 4,
            "rate_count": 2,
            "type": "packets",
        }
    ]
    with running(made) as pipeline:
        meter = pipeline.meters["limit"]
        assert meter.read(2) is None
        assert {rest for _, _, rest in words(pipeline.replay(FRAME, 3) * 5)} == {0}, "green without rates"
        meter.configure(2, MeterRates(cir=1, cburst=3, pir=1, pburst=5))
        colours = [words(pipeline.replay(FRAME, 3))[0][2] for _ in range(8)]
        assert colours == [0, 0, 0, 1, 1, 2, 2, 2]
        meter.configure(2, MeterRates(cir=1_000_000, cburst=1, pir=1_000_000, pburst=1))
        assert words(pipeline.replay(FRAME, 3))[0][2] == 0
        time.sleep(0.001)  # what the meter measures is time
        assert words(pipeline.replay(FRAME, 3))[0][2] == 0
        with pytest.raises(ValueError, match="cells 0 to 3, not 4"):
            meter.configure(4, None)


def test_an_entry_that_ages_tells_when_it_was_hit() -> None:
    made = program(
        [("word", 32), ("rest", 32), ("more", 64)],
        FIELDS,
        [action(1, "nothing", [])],
        [programs.table("aging", [("word", "exact")], "exact", {1: "nothing"}, support_timeout=True)],
    )
    with running(made) as pipeline:
        pipeline.insert("aging", (7,), 0, Call("nothing", ()))
        before = time.monotonic()
        while pipeline.idle_seconds("aging", [((7,), 0)])[0] < 0.05:
            time.sleep(0.01)
        pipeline.replay(FRAME, 3)
        assert pipeline.idle_seconds("aging", [((7,), 0)])[0] < time.monotonic() - before
        assert pipeline.idle_seconds("aging", [((7,), 0)])[0] < 0.05


def test_no_update_of_a_register_is_lost_between_cpus() -> None:
    register = {"type": "register_array", "value": "seen"}
    temporary = field("scalars", "temporary")
    increased = {"type": "expression", "value": {"op": "+", "left": temporary, "right": number(1)}}
    made = document(
        [
            primitive("register_read", temporary, register, number(1)),
            assign(temporary, increased),
            primitive("register_write", register, number(1), temporary),
        ]
    )
    made["register_arrays"] = [{"name": "seen", "id": 0, "size": 4, "bitwidth": 32}]
    rounds = 300_000
    with running(made) as pipeline:
        pipeline.replay(FRAME, 3)
        threads = [Thread(target=pipeline.program.test_run, args=(FRAME, rounds)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pipeline.read_register("seen", 1, 1) == [2 * rounds + 1]
