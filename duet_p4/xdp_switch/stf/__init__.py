"""STF tests: p4c's small language of table entries, packets and what is expected of them.

| module | job |
| --- | --- |
| `script` | reads an .stf file into commands |
| `interpreter` | what commands mean for a program |
| `xdp`, `bmv2` | carry them out |
| `suite` | a folder of tests: programs compiled, tests run, verdicts |
| `cli` | `duet p4 stf` |

The language is that of p4c's backends/bmv2/bmv2stf.py, names of tables, keys and values included; `reset`
stands between tests that are one file.
"""
