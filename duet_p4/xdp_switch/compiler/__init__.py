"""The compiler: from p4c's BMv2 JSON to eBPF C.

What it takes of v1model:

- parser: extract, header stacks and loops over them, lookahead of up to 64 bits, select with masks,
  verify, advance, assignments; errors end the parser as in BMv2;
- tables: exact, LPM, ternary, range, optional; const entries, priorities, default actions, hit and miss,
  action_run; direct counters; action profiles and selectors. Ternary, range and mixed keys hold entries
  of up to 64 different masks;
- expressions: arithmetic of up to 128 bits (multiplication 64), signed and saturating types, casts;
- headers: validity, assignment, push and pop; stack indices known when compiling;
- externs: counters, registers of up to 64 bits (reading and writing one is not atomic between CPUs),
  hash, verify_checksum and update_checksum (crc32, crc16, csum16, xor16, identity), mark_to_drop,
  truncate, exit;
- packet_in and packet_out headers, standard metadata; queueing metadata reads as 0.

Refused by name and P4 line: clone, multicast, digest, resubmit, recirculate, meters, random, varbit,
header unions, parser value sets, checksums over the payload, idle timeouts, extern instances, comparison
of whole headers, stack indices known only at run time.

A field of a header that is not valid has no defined value, in BMv2 as here.
"""

from duet_p4.xdp_switch.compiler.program import Compiled, compile_program

__all__ = ["Compiled", "compile_program"]
