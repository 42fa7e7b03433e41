"""Traces of packets: instrumented variants of data paths, what their records say, traces of an agent."""
