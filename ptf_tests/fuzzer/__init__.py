"""A model of a P4Runtime switch that predicts each answer, and random updates to compare the two.

After PINS' p4_fuzzer: the oracle is data. `generate` makes updates of any P4Info, some of them faulty in one
known way; `model` states facts about an update, and which codes each of them allows; `run` writes to a switch
and compares answers and state. `python -m ptf_tests.fuzzer --help` for long runs on the xdp switch.
"""
