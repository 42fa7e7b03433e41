"""The compiler: from p4c's BMv2 JSON to eBPF C.

It takes all of v1model but externs of one's own; docs/xdp.md has the list, the limits and the sizes. What it
does not take is refused by name and P4 line.

A field of a header that is not valid has no defined value, in BMv2 as here.
"""

from duet_p4.xdp_switch.compiler.program import Compiled, compile_program

__all__ = ["Compiled", "compile_program"]
