"""Conformance: what BMv2, the oracle, does with a frame is what every other target must do.

| module | what it knows |
| --- | --- |
| `program` | a P4 program, its table states and its traffic; what a target is |
| `hmux_states`, `hmux_traffic`, `hmux` | states and traffic of hmux.p4 |
| `l2_switch`, `l3_router`, `stateful`, `labels`, `calculator` | those of the small programs of tests/p4 |
| `programs` | all of them, by name |
| `headers`, `mutations` | frames: well-formed ones, and how to break them |
| `changes` | how to change tables while traffic runs |
| `bmv2`, `xdp` | the two targets |
| `vectors` | the file of recorded vectors, one per program, in `vectors/` |
| `record`, `replay`, `fuzz`, `shrink` | the commands |
| `differences` | where two targets disagree, for people |

`python -m ptf_tests.conformance record | replay | fuzz`; see `--help` of each.
"""
