"""The functions of libbpf and the bpf system call that `duet_p4.bpf` uses, as ctypes declares them."""

from __future__ import annotations

import ctypes as c
import errno
import os
import struct
import threading
from functools import cache
from typing import Any

from duet_p4.bpf.errors import BpfError

BPF_OBJ_GET_INFO_BY_FD = 15
BPF_LINK_CREATE = 28
BPF_LINK_UPDATE = 29
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}


class OpenOptions(c.Structure):
    """struct bpf_object_open_opts."""

    _fields_ = [
        ("sz", c.c_size_t),
        ("object_name", c.c_char_p),
        ("relaxed_maps", c.c_bool),
        ("pin_root_path", c.c_char_p),
        ("reserved", c.c_uint32),
        ("kconfig", c.c_char_p),
        ("btf_custom_path", c.c_char_p),
        ("kernel_log_buf", c.c_void_p),
        ("kernel_log_size", c.c_size_t),
        ("kernel_log_level", c.c_uint32),
    ]


class TestRunOptions(c.Structure):
    """struct bpf_test_run_opts."""

    __test__ = False
    _fields_ = [
        ("sz", c.c_size_t),
        ("data_in", c.c_void_p),
        ("data_out", c.c_void_p),
        ("data_size_in", c.c_uint32),
        ("data_size_out", c.c_uint32),
        ("ctx_in", c.c_void_p),
        ("ctx_out", c.c_void_p),
        ("ctx_size_in", c.c_uint32),
        ("ctx_size_out", c.c_uint32),
        ("retval", c.c_uint32),
        ("repeat", c.c_int),
        ("duration", c.c_uint32),
        ("flags", c.c_uint32),
        ("cpu", c.c_uint32),
        ("batch_size", c.c_uint32),
    ]


class BatchOptions(c.Structure):
    """struct bpf_map_batch_opts."""

    _fields_ = [("sz", c.c_size_t), ("elem_flags", c.c_uint64), ("flags", c.c_uint64)]


class MapCreateOptions(c.Structure):
    """struct bpf_map_create_opts."""

    _fields_ = [
        ("sz", c.c_size_t),
        ("btf_fd", c.c_uint32),
        ("btf_key_type_id", c.c_uint32),
        ("btf_value_type_id", c.c_uint32),
        ("btf_vmlinux_value_type_id", c.c_uint32),
        ("inner_map_fd", c.c_uint32),
        ("map_flags", c.c_uint32),
        ("map_extra", c.c_uint64),
        ("numa_node", c.c_uint32),
        ("map_ifindex", c.c_uint32),
    ]


class TcHook(c.Structure):
    """struct bpf_tc_hook."""

    _fields_ = [
        ("sz", c.c_size_t),
        ("ifindex", c.c_int),
        ("attach_point", c.c_int),
        ("parent", c.c_uint32),
    ]


class TcOptions(c.Structure):
    """struct bpf_tc_opts."""

    _fields_ = [
        ("sz", c.c_size_t),
        ("prog_fd", c.c_int),
        ("flags", c.c_uint32),
        ("prog_id", c.c_uint32),
        ("handle", c.c_uint32),
        ("priority", c.c_uint32),
    ]


_POINTER, _INT, _U32, _SIZE, _STRING = c.c_void_p, c.c_int, c.c_uint32, c.c_size_t, c.c_char_p
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (_POINTER, [_POINTER]),
    "libbpf_num_possible_cpus": (_INT, []),
    "bpf_object__open_file": (_POINTER, [_STRING, c.POINTER(OpenOptions)]),
    "bpf_object__load": (_INT, [_POINTER]),
    "bpf_object__close": (None, [_POINTER]),
    "bpf_object__btf": (_POINTER, [_POINTER]),
    "bpf_object__next_map": (_POINTER, [_POINTER, _POINTER]),
    "bpf_object__next_program": (_POINTER, [_POINTER, _POINTER]),
    "bpf_object__find_program_by_name": (_POINTER, [_POINTER, _STRING]),
    "bpf_program__fd": (_INT, [_POINTER]),
    "bpf_program__name": (_STRING, [_POINTER]),
    "bpf_program__insns": (_POINTER, [_POINTER]),
    "bpf_program__insn_cnt": (_SIZE, [_POINTER]),
    "bpf_program__set_autoload": (_INT, [_POINTER, c.c_bool]),
    "bpf_map__name": (_STRING, [_POINTER]),
    "bpf_map__fd": (_INT, [_POINTER]),
    "bpf_map__type": (_INT, [_POINTER]),
    "bpf_map__key_size": (_U32, [_POINTER]),
    "bpf_map__value_size": (_U32, [_POINTER]),
    "bpf_map__max_entries": (_U32, [_POINTER]),
    "bpf_map__map_flags": (_U32, [_POINTER]),
    "bpf_map__set_max_entries": (_INT, [_POINTER, _U32]),
    "bpf_map__reuse_fd": (_INT, [_POINTER, _INT]),
    "bpf_map__initial_value": (_POINTER, [_POINTER, c.POINTER(_SIZE)]),
    "bpf_map_create": (_INT, [_INT, _STRING, _U32, _U32, _U32, c.POINTER(MapCreateOptions)]),
    "bpf_obj_pin": (_INT, [_INT, _STRING]),
    "bpf_obj_get": (_INT, [_STRING]),
    "bpf_prog_get_next_id": (_INT, [_U32, c.POINTER(_U32)]),
    "bpf_map_delete_batch": (_INT, [_INT, _STRING, c.POINTER(_U32), c.POINTER(BatchOptions)]),
    "bpf_map_lookup_elem": (_INT, [_INT, _STRING, _POINTER]),
    "bpf_map_update_elem": (_INT, [_INT, _STRING, _STRING, c.c_uint64]),
    "bpf_map_delete_elem": (_INT, [_INT, _STRING]),
    "bpf_map_get_next_key": (_INT, [_INT, _POINTER, _POINTER]),
    "bpf_map_update_batch": (_INT, [_INT, _STRING, _STRING, c.POINTER(_U32), c.POINTER(BatchOptions)]),
    "bpf_map_lookup_batch": (
        _INT,
        [_INT, _POINTER, _POINTER, _POINTER, _POINTER, c.POINTER(_U32), c.POINTER(BatchOptions)],
    ),
    "bpf_prog_test_run_opts": (_INT, [_INT, c.POINTER(TestRunOptions)]),
    "bpf_tc_hook_create": (_INT, [c.POINTER(TcHook)]),
    "bpf_tc_attach": (_INT, [c.POINTER(TcHook), c.POINTER(TcOptions)]),
    "bpf_tc_detach": (_INT, [c.POINTER(TcHook), c.POINTER(TcOptions)]),
    "bpf_tc_query": (_INT, [c.POINTER(TcHook), c.POINTER(TcOptions)]),
    "btf__find_by_name_kind": (c.c_int32, [_POINTER, _STRING, _U32]),
    "btf__type_by_id": (_POINTER, [_POINTER, _U32]),
    "btf__name_by_offset": (_STRING, [_POINTER, _U32]),
}

_warnings = threading.local()


@cache
def library() -> Any:
    """Return libbpf with typed functions; BpfError where it is not installed."""
    try:
        loaded = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise BpfError(
            "libbpf 1.x is missing: install it (Debian, Ubuntu: apt-get install libbpf1)"
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    loaded.libbpf_set_print(_print_callback)
    return loaded


def take_warnings() -> str:
    """Return and forget what libbpf warned about in this thread since the last call."""
    lines: list[str] = getattr(_warnings, "lines", [])
    _warnings.lines = []
    return "".join(lines).strip()


@cache
def possible_cpus() -> int:
    """Return how many values a per-CPU map holds for a key."""
    return int(library().libbpf_num_possible_cpus())


def bpf_call(command: int, attributes: bytes) -> int:
    """Make a bpf system call and return its result; OSError where it fails."""
    number = _SYS_BPF.get(os.uname().machine)
    if number is None:
        raise BpfError(f"no bpf system call number is known for {os.uname().machine}")
    buffer = c.create_string_buffer(attributes, len(attributes))
    result = int(_libc().syscall(number, command, buffer, len(attributes)))
    if result < 0:
        raise OSError(c.get_errno(), os.strerror(c.get_errno()))
    return result


def object_info(fd: int, size: int) -> bytes:
    """Return the kernel's `bpf_map_info`, `bpf_link_info` or `bpf_prog_info` of a descriptor."""
    info = c.create_string_buffer(size)
    bpf_call(BPF_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, size, c.addressof(info)))
    return info.raw


def last_error() -> int:
    """Return the errno that the last call of libbpf in this thread left."""
    return c.get_errno() or errno.EIO


@cache
def _libc() -> Any:
    libc = c.CDLL(None, use_errno=True)
    libc.syscall.restype = c.c_long
    libc.vsnprintf.argtypes = [c.c_char_p, c.c_size_t, c.c_char_p, c.c_void_p]
    return libc


def _collect(level: int, template: bytes, arguments: int) -> int:
    if level > 0:
        return 0
    text = c.create_string_buffer(1 << 16)
    _libc().vsnprintf(text, len(text), template, arguments)
    if not hasattr(_warnings, "lines"):
        _warnings.lines = []
    _warnings.lines.append(text.value.decode(errors="replace"))
    return len(text.value)


_print_callback = c.CFUNCTYPE(c.c_int, c.c_int, c.c_char_p, c.c_void_p)(_collect)
