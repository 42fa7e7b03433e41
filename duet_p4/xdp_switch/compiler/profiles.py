"""Action profiles and selectors: the C that finds a member, and the store in Python that writes it.

A table's entry holds a reference: the handle of a member, or with GROUP_FLAG that of a group. `at_member_P`
says where in `members_P` the member of a handle lies now (0: nowhere); a changed member is written to
another place first, and the old one rests. `groups_P` holds for a group its first slot << 32 | how many,
`slots_P` the handle of a member per slot. A changed group is written to slots that no group uses before
`groups_P` says so; a packet takes slot first + hash mod number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.calculations import Calculations
from duet_p4.xdp_switch.compiler.entries import GROUP_FLAG, SPARE_HANDLES, ActionSet
from duet_p4.xdp_switch.compiler.lookup.base import Places
from duet_p4.xdp_switch.dataplane import Call, NoRoomError


def member_capacity(profile: ir.Profile) -> int:
    """Return how many places for members there are; place 0 is unused."""
    return profile.size + 1 + SPARE_HANDLES


def group_capacity(profile: ir.Profile) -> int:
    """Return how many groups a selector can hold."""
    return profile.size + 1


def slot_capacity(profile: ir.Profile) -> int:
    """Return how many slots the groups of a selector share."""
    return 4 * profile.size + 256


def find_function(
    profile: ir.Profile, symbol: str, actions: ActionSet, calculations: Calculations
) -> Iterator[str]:
    """Yield the C of a profile's memory, and of the function that finds the member a reference leads to."""
    yield f"/* action profile {profile.name}, {profile.source} */"
    yield from actions.declaration(f"member_{symbol}")
    yield f"struct member_{symbol} members_{symbol}[{member_capacity(profile)}];"
    yield f"__u32 at_member_{symbol}[{profile.size + SPARE_HANDLES}]; /* handle -> where the member is */"
    if profile.algorithm is not None:
        yield "/* handle of a group -> first slot << 32 | number of slots */"
        yield f"__u64 groups_{symbol}[{group_capacity(profile)}];"
        yield f"__u32 slots_{symbol}[{slot_capacity(profile)}]; /* slot -> handle of a member */"
    yield ""
    yield f"static __always_inline struct member_{symbol} *"
    yield f"find_{symbol}(struct scratch *s, __u32 reference)"
    yield "{"
    if profile.algorithm is not None:
        yield f"    if (reference & {GROUP_FLAG:#x}u) {{"
        yield f"        INDEX(group, reference & {GROUP_FLAG - 1:#x});"
        yield f"        if (group >= {group_capacity(profile)})"
        yield "            return 0;"
        yield f"        __u64 range = groups_{symbol}[group];"
        yield "        __u32 count = (__u32)range;"
        yield "        if (count == 0)"
        yield "            return 0;"
        call = calculations.call(Calculations.selector(profile))
        yield f"        INDEX(slot, (range >> 32) + {call} % count);"
        yield f"        if (slot >= {slot_capacity(profile)})"
        yield "            return 0;"
        yield f"        reference = slots_{symbol}[slot];"
        yield "    }"
    yield "    INDEX(handle, reference);"
    yield f"    if (handle >= {profile.size + SPARE_HANDLES})"
    yield "        return 0;"
    yield f"    INDEX(at, at_member_{symbol}[handle]);"
    yield f"    if (at == 0 || at >= {member_capacity(profile)})"
    yield "        return 0;"
    yield f"    return &members_{symbol}[at];"
    yield "}"
    yield ""


class Members:
    """The members of a profile by handle, and the groups of a selector, as ranges of slots."""

    def __init__(self, profile: ir.Profile, symbol: str, actions: ActionSet, loaded: bpf.Object) -> None:
        self._profile = profile
        self._actions = actions
        self._places = Places(loaded.memory(f"members_{symbol}"), member_capacity(profile))
        self._member_at = loaded.memory(f"at_member_{symbol}").cast("I")
        self._ranges: dict[int, tuple[int, int]] = {}
        self._next = 0
        if profile.algorithm is not None:
            self._groups = loaded.memory(f"groups_{symbol}").cast("Q")
            self._slots = loaded.memory(f"slots_{symbol}").cast("I")

    def set_member(self, handle: int, action: Call) -> None:
        """Add or change a member."""
        if handle >= len(self._member_at):
            raise self._full()
        old = self._member_at[handle]
        try:
            data = self._actions.pack(self._actions.by_name[action.action], handle, action.arguments)
            (self._member_at[handle],) = self._places.add(data).tolist()
        except IndexError:
            raise self._full() from None
        if old:
            self._places.remove(np.array([old], dtype=np.uint64))

    def delete_member(self, handle: int) -> None:
        """Remove a member."""
        old = self._member_at[handle]
        self._member_at[handle] = 0
        self._places.remove(np.array([old], dtype=np.uint64))

    def set_group(self, handle: int, members: Sequence[int]) -> None:
        """Add or change a group."""
        if handle >= group_capacity(self._profile):
            raise self._full()
        first = self._find_room(len(members))
        for offset, member in enumerate(members):
            self._slots[first + offset] = member
        self._groups[handle] = first << 32 | len(members)
        self._ranges[handle] = (first, len(members))

    def delete_group(self, handle: int) -> None:
        """Remove a group."""
        self._groups[handle] = 0
        del self._ranges[handle]

    def _find_room(self, count: int) -> int:
        """Return the first of `count` slots that no group uses, looking on from the last place found."""
        capacity = slot_capacity(self._profile)
        used = sorted(span for span in self._ranges.values() if span[1])
        for start in (self._next, 0):
            at = start
            for first, length in used:
                if first >= at + count:
                    break
                at = max(at, first + length)
            if at + count <= capacity:
                self._next = at + count
                return at
        raise self._full()

    def _full(self) -> NoRoomError:
        size = self._profile.size
        return NoRoomError(f"action profile {self._profile.name} is full: it has room for {size} members")
