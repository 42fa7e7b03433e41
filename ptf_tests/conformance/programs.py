"""The programs that are compared, by name."""

from __future__ import annotations

from ptf_tests.conformance import calculator, copies, hmux, l2_switch, l3_router, labels, shapes, stateful
from ptf_tests.conformance.program import Program

PROGRAMS: dict[str, Program] = {
    module.PROGRAM.name: module.PROGRAM
    for module in (hmux, l2_switch, l3_router, stateful, labels, calculator, copies, shapes)
}
