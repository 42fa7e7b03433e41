"""Loaded eBPF objects: their maps and programs. They die with the process, unless `pins` keeps them."""

from __future__ import annotations

import ctypes as c
import errno
import mmap
import os
import platform
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from duet_p4.bpf import libbpf
from duet_p4.bpf.errors import BpfError

ANY, NOEXIST, EXIST = 0, 1, 2
"""Flags of `Map.update`: create or replace, only create, only replace."""

_LOG_SIZE = 1 << 20
_VERIFIED_AT = 216  # offset of bpf_prog_info.verified_insns, since Linux 5.16
_LOG_TAIL_LINES = 40
_DATASEC = 15
_BATCH = 4096
_LIVE_FRAMES = 1 << 1
_XDP_MD = struct.Struct("=6I")
_PERCPU_TYPES = {5, 6, 10, 21}


class Closable(ABC):
    """What the end of a `with` closes."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Map:
    """A BPF map. Keys and values are bytes of exactly `key_size` and `value_size`.

    Failures raise OSError with the kernel's errno and the map's name.
    """

    def __init__(
        self,
        name: str,
        fd: int,
        kind: int,
        key_size: int,
        value_size: int,
        max_entries: int,
        *,
        flags: int = 0,
        own: bool = False,
    ):
        self.shape = (kind, key_size, value_size, flags, max_entries)
        self._own = own
        self.name = name
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries
        self.per_cpu = kind in _PERCPU_TYPES
        self.cpus = libbpf.possible_cpus() if self.per_cpu else 1
        self._stride = (value_size + 7) // 8 * 8 if self.per_cpu else value_size
        self._buffer_size = self._stride * self.cpus

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of `key`, or None where there is none."""
        value = c.create_string_buffer(self._buffer_size)
        if libbpf.library().bpf_map_lookup_elem(self.fd, self._key(key), value):
            if libbpf.last_error() == errno.ENOENT:
                return None
            raise self._error()
        return value.raw

    def lookup_percpu(self, key: bytes) -> list[bytes]:
        """Return one value per possible CPU; empty where there is none."""
        raw = self.lookup(key)
        return [] if raw is None else self.split(raw)

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Set `key` to `value`; in a per-CPU map, on every CPU."""
        self.write(key, self._spread(value), flags)

    def update_percpu(self, key: bytes, values: Sequence[bytes]) -> None:
        """Set `key` to one value for each possible CPU."""
        self.write(key, b"".join(value.ljust(self._stride, b"\0") for value in values))

    def write(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Set `key` to what `lookup` has returned: in a per-CPU map, the values of all CPUs."""
        if len(value) != self._buffer_size:
            raise ValueError(
                f"map {self.name}: {self._buffer_size} bytes of values expected, not {len(value)}"
            )
        if libbpf.library().bpf_map_update_elem(self.fd, self._key(key), value, flags):
            raise self._error()

    def delete(self, key: bytes) -> None:
        """Delete `key`; OSError with ENOENT where there is none."""
        if libbpf.library().bpf_map_delete_elem(self.fd, self._key(key)):
            raise self._error()

    def keys(self) -> Iterator[bytes]:
        """Yield every key; entries that change meanwhile may be missed or seen twice."""
        current: c.Array[c.c_char] | None = None
        while True:
            following = c.create_string_buffer(self.key_size)
            if libbpf.library().bpf_map_get_next_key(self.fd, current, following):
                if libbpf.last_error() == errno.ENOENT:
                    return
                raise self._error()
            yield following.raw
            current = following

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every key with its value; per-CPU maps give the values of all CPUs, one after another."""
        for key in self.keys():
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def entries(self) -> list[tuple[bytes, bytes]]:
        """Return every entry of a hash, thousands in one system call; changing ones may be missed."""
        found: list[tuple[bytes, bytes]] = []
        room, key, size = _BATCH, self.key_size, self._buffer_size
        position: c.Array[c.c_char] | None = None
        while True:
            following = c.create_string_buffer(max(4, key))
            keys, values = c.create_string_buffer(key * room), c.create_string_buffer(size * room)
            number = c.c_uint32(room)
            options = libbpf.BatchOptions(sz=c.sizeof(libbpf.BatchOptions))
            failed = libbpf.library().bpf_map_lookup_batch(
                self.fd, position, following, keys, values, c.byref(number), c.byref(options)
            )
            code = libbpf.last_error() if failed else 0
            if code == errno.ENOSPC:
                room *= 2  # One bucket has more than that.
                continue
            if code not in (0, errno.ENOENT):
                raise self._error()
            raw_keys, raw_values = keys.raw, values.raw
            found += (
                (raw_keys[key * at : key * (at + 1)], raw_values[size * at : size * (at + 1)])
                for at in range(number.value)
            )
            if code:
                return found
            position = following

    def delete_batch(self, keys: Iterable[bytes]) -> None:
        """Delete keys of a hash, thousands in one system call; those that are gone do not matter."""
        left = list(keys)
        while left:
            count = c.c_uint32(len(left))
            options = libbpf.BatchOptions(sz=c.sizeof(libbpf.BatchOptions))
            joined = b"".join(map(self._key, left))
            if not libbpf.library().bpf_map_delete_batch(self.fd, joined, c.byref(count), c.byref(options)):
                return
            if libbpf.last_error() != errno.ENOENT:
                raise self._error()
            left = left[count.value + 1 :]

    def update_batch(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many keys in one system call; in a per-CPU map, on every CPU."""
        pairs = list(items)
        self.update_joined(
            b"".join(self._key(key) for key, _ in pairs), b"".join(self._spread(value) for _, value in pairs)
        )

    def update_joined(self, keys: bytes, values: bytes) -> None:
        """Do the same with keys, and as many values as `write` takes, one after another."""
        number, rest = divmod(len(keys), self.key_size)
        if rest or len(values) != number * self._buffer_size:
            raise ValueError(f"map {self.name}: {len(keys)} bytes of keys, {len(values)} of values")
        if not number:
            return
        count = c.c_uint32(number)
        options = libbpf.BatchOptions(sz=c.sizeof(libbpf.BatchOptions))
        if libbpf.library().bpf_map_update_batch(self.fd, keys, values, c.byref(count), c.byref(options)):
            raise self._error()

    def lookup_range(self, first: int, count: int) -> list[list[bytes]]:
        """Return the values of array entries `first` to `first + count - 1`, one list per entry (per CPU)."""
        raw, size = self.read(first, count), self._buffer_size
        return [self.split(raw[at : at + size]) for at in range(0, len(raw), size)]

    def read(self, first: int, count: int) -> bytes:
        """Return the same as it lies in the kernel, one value after another."""
        if count <= 0:
            return b""
        position = struct.pack("=I", first - 1) if first else None
        following = c.create_string_buffer(4)
        keys = c.create_string_buffer(4 * count)
        values = c.create_string_buffer(self._buffer_size * count)
        number = c.c_uint32(count)
        options = libbpf.BatchOptions(sz=c.sizeof(libbpf.BatchOptions))
        failed = libbpf.library().bpf_map_lookup_batch(
            self.fd, position, following, keys, values, c.byref(number), c.byref(options)
        )
        if failed and libbpf.last_error() != errno.ENOENT:
            raise self._error()
        return values.raw[: self._buffer_size * number.value]

    def mapped(self) -> memoryview:
        """Return an array made with BPF_F_MMAPABLE as memory; aligned words of it are written at once.

        Elements are padded to 8 bytes. The view outlives the map.
        """
        size = (self.value_size + 7) // 8 * 8 * self.max_entries
        whole = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        return memoryview(mmap.mmap(self.fd, whole))[:size]

    def close(self) -> None:
        """Let go of a map made by `create_map`; maps of an object are closed with it."""
        if self._own and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def split(self, raw: bytes) -> list[bytes]:
        """Part what `entries` or `lookup` gave of a per-CPU map into the values of each CPU."""
        return [raw[at : at + self.value_size] for at in range(0, len(raw), self._stride)]

    def _spread(self, value: bytes) -> bytes:
        if len(value) != self.value_size:
            raise ValueError(f"map {self.name}: a value has {self.value_size} bytes, not {len(value)}")
        return value.ljust(self._stride, b"\0") * (self._buffer_size // self._stride)

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise ValueError(f"map {self.name}: a key has {self.key_size} bytes, not {len(key)}")
        return key

    def _error(self) -> OSError:
        code = libbpf.last_error()
        return OSError(code, f"{os.strerror(code)} (map {self.name})")


@dataclass(frozen=True)
class TestRun:
    """What one `Program.test_run` gave: the verdict, the packet after it, and ns per repetition."""

    __test__ = False
    retval: int
    data_out: bytes
    ns: int

    def __iter__(self) -> Iterator[int | bytes]:
        return iter((self.retval, self.data_out, self.ns))


class Program:
    """A loaded program."""

    def __init__(self, name: str, fd: int):
        self.name = name
        self.fd = fd

    def verified_instructions(self) -> int:
        """Return how many instructions the verifier looked at to load it: what loading costs."""
        info = libbpf.object_info(self.fd, _VERIFIED_AT + 4)
        return int(struct.unpack_from("=I", info, _VERIFIED_AT)[0])

    def send_live(self, data: bytes, repeat: int, batch: int, ifindex: int = 0) -> None:
        """Have the kernel make so many frames, run the program on each, and do what it says with them.

        They come by the interface `ifindex`, or (0) by none that is told. Raises OSError.
        """
        context = _XDP_MD.pack(0, len(data), 0, ifindex, 0, 0)
        source = c.create_string_buffer(data, len(data))
        held = c.create_string_buffer(context, len(context))
        options = libbpf.TestRunOptions(
            sz=c.sizeof(libbpf.TestRunOptions),
            data_in=c.addressof(source),
            data_size_in=len(data),
            ctx_in=c.addressof(held),
            ctx_size_in=len(context),
            repeat=repeat,
            flags=_LIVE_FRAMES,
            batch_size=batch,
        )
        if libbpf.library().bpf_prog_test_run_opts(self.fd, c.byref(options)):
            code = libbpf.last_error()
            raise OSError(code, f"{os.strerror(code)} (live frames of {self.name}, {len(data)} bytes)")

    def test_run(self, data: bytes, repeat: int = 1, context: bytes | None = None) -> TestRun:
        """Run the program on `data` in the kernel, `repeat` times.

        `context` is a `struct xdp_md` or `struct __sk_buff` where the program reads more than the data.
        Raises OSError where the kernel refuses, as it does for frames below 14 bytes.
        """
        output = c.create_string_buffer(1 << 16)
        source = c.create_string_buffer(data, len(data))
        options = libbpf.TestRunOptions(
            sz=c.sizeof(libbpf.TestRunOptions),
            data_in=c.addressof(source),
            data_size_in=len(data),
            data_out=c.addressof(output),
            data_size_out=len(output),
            repeat=repeat,
        )
        if context is not None:
            held = c.create_string_buffer(context, len(context))
            options.ctx_in, options.ctx_size_in = c.addressof(held), len(context)
        if libbpf.library().bpf_prog_test_run_opts(self.fd, c.byref(options)):
            code = libbpf.last_error()
            raise OSError(code, f"{os.strerror(code)} (test run of {self.name}, {len(data)} bytes)")
        return TestRun(options.retval, output.raw[: options.data_size_out], options.duration)


class Object(Closable):
    """An object file opened, and once `load` has returned, its maps and programs in the kernel."""

    def __init__(self, path: Path):
        self.path = path
        self._library = libbpf.library()
        self._log = c.create_string_buffer(_LOG_SIZE)
        options = libbpf.OpenOptions(
            sz=c.sizeof(libbpf.OpenOptions),
            kernel_log_buf=c.addressof(self._log),
            kernel_log_size=_LOG_SIZE,
        )
        libbpf.take_warnings()
        self._handle = self._library.bpf_object__open_file(str(path).encode(), c.byref(options))
        if not self._handle:
            raise BpfError(
                f"cannot open {path}: {libbpf.take_warnings() or os.strerror(libbpf.last_error())}"
            )
        self._loaded = False
        self._bss: mmap.mmap | None = None
        self._variables: dict[str, dict[str, tuple[int, int]]] = {}

    def load(
        self,
        rodata: Mapping[str, bytes] | None = None,
        *,
        share: Mapping[str, Map] | None = None,
        max_entries: Mapping[str, int] | None = None,
        programs: Iterable[str] | None = None,
    ) -> Self:
        """Load maps and programs into the kernel.

        `rodata` sets `const volatile` variables; `share` uses existing maps in place of the object's
        own; `max_entries` resizes maps; `programs`, where given, are the only ones loaded.
        Raises BpfError with the end of the verifier's log where the kernel refuses.
        """
        for name, value in (rodata or {}).items():
            self._set_rodata(name, value)
        for name, entries in (max_entries or {}).items():
            self.resize(name, entries)
        for name, shared in (share or {}).items():
            if self._library.bpf_map__reuse_fd(self._find_map(name), shared.fd):
                raise BpfError(f"map {name} of {self.path.name} cannot share: {libbpf.take_warnings()}")
        if programs is not None:
            self._select_programs(set(programs))
        libbpf.take_warnings()
        c.memset(self._log, 0, 1)
        if self._library.bpf_object__load(self._handle):
            raise BpfError(self._refusal())
        self._loaded = True
        return self

    def map(self, name: str) -> Map:
        """Return a map by the name it has in the source; BpfError where there is none."""
        handle, library = self._find_map(name), self._library
        return Map(
            name,
            library.bpf_map__fd(handle),
            library.bpf_map__type(handle),
            library.bpf_map__key_size(handle),
            library.bpf_map__value_size(handle),
            library.bpf_map__max_entries(handle),
            flags=library.bpf_map__map_flags(handle),
        )

    def resize(self, name: str, entries: int) -> None:
        """Give a map another number of entries, before it is loaded."""
        self._library.bpf_map__set_max_entries(self._find_map(name), entries)

    def shape(self, name: str) -> tuple[int, int, int, int, int]:
        """Return kind, key and value size, flags and entries of a map, loaded or not: what makes it fit."""
        return self.map(name).shape

    def program(self, name: str) -> Program:
        """Return a program by its function's name; BpfError where there is none."""
        handle = self._library.bpf_object__find_program_by_name(self._handle, name.encode())
        if not handle:
            raise BpfError(f"{self.path.name} has no program {name}")
        return Program(name, self._library.bpf_program__fd(handle))

    def programs(self) -> list[str]:
        """Return the names of all programs of the object, loaded or not."""
        return [name for name, _ in self._each("program")]

    def instructions(self, name: str) -> bytes:
        """Return a loaded program's instructions, as libbpf gave them to the kernel."""
        handle = self._library.bpf_object__find_program_by_name(self._handle, name.encode())
        if not handle or not self._loaded:
            raise BpfError(f"{self.path.name} has no program {name} in the kernel")
        size = 8 * self._library.bpf_program__insn_cnt(handle)
        return c.string_at(self._library.bpf_program__insns(handle), size)

    def maps(self) -> list[Map]:
        """Return all maps of the object, those of its global variables included."""
        return [self.map(name) for name, _ in self._each("map")]

    def memory(self, name: str) -> memoryview:
        """Return a zero-initialized global variable (in .bss) of a loaded object, as the program sees it.

        Writes are seen by the program at once. The view outlives `close`.
        """
        if not self._loaded:
            raise BpfError(f"{self.path.name} is not loaded: {name} has no memory yet")
        start, size = self.place(name)
        return self.whole_memory()[start : start + size]

    def place(self, name: str) -> tuple[int, int]:
        """Return where a global variable is within `whole_memory`, and its size."""
        address, size = self._variable(".bss", name)
        handle = self._section_map(".bss")
        return address - int(self._library.bpf_map__initial_value(handle, c.byref(c.c_size_t()))), size

    def whole_memory(self) -> memoryview:
        """Return all zero-initialized global variables of a loaded object; see `memory`."""
        if self._bss is None:
            handle = self._section_map(".bss")
            room = self._library.bpf_map__value_size(handle)
            whole = (room + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
            self._bss = mmap.mmap(self._library.bpf_map__fd(handle), whole)
        return memoryview(self._bss)

    def close(self) -> None:
        """Release everything; attached links keep their program until they are closed."""
        if self._handle:
            self._library.bpf_object__close(self._handle)
            self._handle = None

    def _each(self, kind: str) -> Iterator[tuple[str, int]]:
        """Yield name and handle of each `program` or `map` of the object."""
        following = getattr(self._library, f"bpf_object__next_{kind}")
        name_of = getattr(self._library, f"bpf_{kind}__name")
        handle = following(self._handle, None)
        while handle:
            yield name_of(handle).decode(), int(handle)
            handle = following(self._handle, handle)

    def _find_map(self, name: str) -> int:
        for found, handle in self._each("map"):
            if found == name:
                return handle
        raise BpfError(f"{self.path.name} has no map {name}")

    def _section_map(self, section: str) -> int:
        for found, handle in self._each("map"):
            if found.endswith(section):
                return handle
        raise BpfError(f"{self.path.name} has no global variables in {section}")

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """Return offset and size of every global variable in a section; empty where there is none."""
        if section in self._variables:
            return self._variables[section]
        library = self._library
        btf = library.bpf_object__btf(self._handle)
        index = library.btf__find_by_name_kind(btf, section.encode(), _DATASEC)
        if index < 0:
            return {}
        at = library.btf__type_by_id(btf, index)
        _, info, _ = struct.unpack("=III", c.string_at(at, 12))
        found = {}
        for number in range(info & 0xFFFF):
            kind, offset, room = struct.unpack("=III", c.string_at(at + 12 + 12 * number, 12))
            (name_offset,) = struct.unpack("=I", c.string_at(library.btf__type_by_id(btf, kind), 4))
            found[library.btf__name_by_offset(btf, name_offset).decode()] = (offset, room)
        self._variables[section] = found
        return found

    def _variable(self, section: str, name: str) -> tuple[int, int]:
        """Return the address of a global variable in this process, and its size."""
        variables = self.variables(section)
        if name not in variables:
            raise BpfError(f"{self.path.name} has no global variable {name}")
        offset, room = variables[name]
        start = self._library.bpf_map__initial_value(self._section_map(section), c.byref(c.c_size_t()))
        return int(start) + offset, room

    def _set_rodata(self, name: str, value: bytes) -> None:
        address, room = self._variable(".rodata", name)
        if room != len(value):
            raise BpfError(f"{name} of {self.path.name} has {room} bytes, not {len(value)}")
        c.memmove(address, value, room)

    def _select_programs(self, wanted: set[str]) -> None:
        for name, handle in self._each("program"):
            self._library.bpf_program__set_autoload(handle, name in wanted)
            wanted.discard(name)
        if wanted:
            raise BpfError(f"{self.path.name} has no program {min(wanted)}")

    def _refusal(self) -> str:
        warnings = libbpf.take_warnings()
        lines = self._log.value.decode(errors="replace").splitlines()
        tail = "\n".join(lines[-_LOG_TAIL_LINES:]) or warnings
        reason = f"Linux {platform.release()} refuses {self.path.name}"
        if os.geteuid() != 0:
            reason += " (loading eBPF needs root)"
        return f"{reason}; the end of its log:\n{tail}"


def create_map(kind: int, name: str, key_size: int, value_size: int, max_entries: int) -> Map:
    """Create a map of its own, to be shared by objects loaded later; `kind` is a `bpf_map_type`."""
    fd = libbpf.library().bpf_map_create(kind, name.encode()[:15], key_size, value_size, max_entries, None)
    if fd < 0:
        code = libbpf.last_error()
        raise OSError(code, f"{os.strerror(code)} (map {name})")
    return Map(name, fd, kind, key_size, value_size, max_entries, own=True)
