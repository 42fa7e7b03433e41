"""The compiler: from p4c's BMv2 JSON to eBPF C."""

from duet_p4.xdp_switch.compiler.program import Compiled, compile_program

__all__ = ["Compiled", "compile_program"]
