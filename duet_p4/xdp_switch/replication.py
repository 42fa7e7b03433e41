"""Multicast groups and clone sessions in a running program."""

from __future__ import annotations

from collections.abc import Sequence

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler.replication import MAX_GROUP, MAX_SESSION, REPLICAS
from duet_p4.xdp_switch.dataplane import NoRoomError, Replica


class Replicas:
    """The memory that groups and sessions share: ranges of replicas, which rest before they are used anew."""

    def __init__(self, loaded: bpf.Object | None) -> None:
        self._cells = loaded.memory("replicas").cast("I") if loaded is not None else None
        self._used: dict[int, int] = {}
        self._next = 0

    def add(self, replicas: Sequence[Replica]) -> int:
        """Write replicas to a free range and return its start. Raises NoRoomError."""
        count = len(replicas)
        for start in (self._next, 0):
            at = start
            for first, length in sorted(self._used.items()):
                if first >= at + count:
                    break
                at = max(at, first + length)
            if at + count <= REPLICAS:
                break
        else:
            raise NoRoomError(f"there is room for {REPLICAS} replicas of multicast groups and clone sessions")
        if self._cells is not None:
            for number, (port, rid) in enumerate(replicas, at):
                self._cells[2 * number], self._cells[2 * number + 1] = port, rid
        if count:
            self._used[at] = count
        self._next = at + count
        return at

    def remove(self, first: int) -> None:
        """Free the range that starts there; one of no replicas takes none."""
        self._used.pop(first, None)


class _Ranges:
    """Numbers that each stand for a list of replicas."""

    def __init__(self, what: str, largest: int, replicas: Replicas, memory: memoryview | None) -> None:
        self._what = what
        self._largest = largest
        self._replicas = replicas
        self._memory = memory.cast("Q") if memory is not None else None
        self._held: dict[int, tuple[int, int]] = {}

    def _put(self, number: int, replicas: Sequence[Replica]) -> None:
        if not 0 <= number <= self._largest:
            raise ValueError(f"{self._what} {number} is out of range: they are up to {self._largest}")
        for port, rid in replicas:
            if not 0 <= port < 512 or not 0 <= rid <= 0xFFFF:
                raise ValueError(
                    f"a replica is a port below 512 and 16 bits of instance, not ({port}, {rid})"
                )
        first = self._replicas.add(replicas)
        if self._memory is not None:
            self._memory[number] = first << 32 | len(replicas)
        self._free(number)
        self._held[number] = (first, len(replicas))

    def remove(self, number: int) -> None:
        """Forget a number; packets that name it are dropped."""
        if self._memory is not None:
            self._memory[number] = 0
        self._free(number)
        self._held.pop(number, None)

    def _free(self, number: int) -> None:
        first, count = self._held.get(number, (0, 0))
        if count:
            self._replicas.remove(first)


class Multicast(_Ranges):
    """The multicast groups, 1 to `MAX_GROUP`. A program that uses none only has them remembered."""

    MAX_GROUP = MAX_GROUP
    CAPACITY = REPLICAS

    def __init__(self, replicas: Replicas, memory: memoryview | None) -> None:
        super().__init__("multicast group", MAX_GROUP, replicas, memory)

    def put(self, group: int, replicas: Sequence[Replica]) -> None:
        """Set the members of a group, in order, atomically. Raises ValueError, NoRoomError."""
        self._put(group, replicas)


class Clones(_Ranges):
    """The clone sessions, 0 to `MAX_SESSION`."""

    MAX_SESSION = MAX_SESSION

    def __init__(self, replicas: Replicas, memory: memoryview | None, truncations: memoryview | None) -> None:
        super().__init__("clone session", MAX_SESSION, replicas, memory)
        self._truncations = truncations.cast("I") if truncations is not None else None

    def put(self, session: int, replicas: Sequence[Replica], truncate: int = 0) -> None:
        """Set where clones of a session go, and how many bytes of them: 0 for all."""
        self._put(session, replicas)
        if self._truncations is not None:
            self._truncations[session] = truncate
