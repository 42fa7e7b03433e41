import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_p4.allocation import RangeAllocator, TableFullError


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.integers(0, 100)), max_size=60))
def test_ranges_never_overlap_and_all_come_back(steps: list[tuple[bool, int, int]]) -> None:
    allocator = RangeAllocator("slots", 32)
    held: list[tuple[int, int]] = []
    for grow, count, pick in steps:
        if grow:
            try:
                first = allocator.allocate(count)
            except TableFullError:
                assert count > 32 - allocator.used or len(held) > 1, "only fragmentation may be in the way"
                continue
            taken = {index for start, size in held for index in range(start, start + size)}
            assert taken.isdisjoint(range(first, first + count)) and first + count <= 32
            held.append((first, count))
        elif held:
            allocator.cancel(*held.pop(pick % len(held)))
        assert allocator.used == sum(size for _, size in held)
    for entry in held:
        allocator.cancel(*entry)
    assert allocator.allocate(32) == 0


def test_a_released_range_rests_unless_nothing_else_is_left() -> None:
    allocator = RangeAllocator("slots", 4)
    first = allocator.allocate(2)
    allocator.release(first, 2)
    assert allocator.allocate(2) == 2, "packets may still be using the first range"
    assert allocator.allocate(2) == 0, "the last room is waited for"


def test_a_full_table_says_which_and_how_full() -> None:
    allocator = RangeAllocator("slots", 8)
    allocator.allocate(6)
    with pytest.raises(TableFullError, match="table slots has no room for 3 more: 6 of 8"):
        allocator.allocate(3)
