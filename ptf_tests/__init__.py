"""Packet tests of the HMux: what goes in, what must come out, the same on every target."""
