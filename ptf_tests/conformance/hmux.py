"""hmux.p4, the program of the HMux."""

from __future__ import annotations

from duet_p4.hmux import pipeline
from ptf_tests.conformance import hmux_states, hmux_traffic
from ptf_tests.conformance.program import Program

PROGRAM = Program(
    name="hmux",
    device_config=pipeline.DEVICE_CONFIG,
    p4info=pipeline.P4INFO,
    states=hmux_states.states,
    random_state=hmux_states.random_state,
    cases=hmux_traffic.cases,
    systematic=hmux_traffic.systematic,
)
