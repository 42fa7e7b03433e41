"""Older kernels, as this one can stand in for them."""

from __future__ import annotations

import errno
import os
import struct

from duet_p4.bpf import libbpf

_TCX_INGRESS, _TCX_EGRESS = 46, 47
_bpf_call = libbpf.bpf_call


def before_tcx(command: int, attributes: bytes) -> int:
    """Answer the bpf system call as a kernel before 6.6 does: TCX's attach types mean nothing to it."""
    if command == libbpf.BPF_LINK_CREATE and struct.unpack_from("=I", attributes, 8)[0] in (
        _TCX_INGRESS,
        _TCX_EGRESS,
    ):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return _bpf_call(command, attributes)
