"""The one exception of the eBPF tool chain: compiling, loading, attaching."""

from __future__ import annotations


class BpfError(Exception):
    """An eBPF program could not be compiled, loaded or attached; the message says which and why."""
