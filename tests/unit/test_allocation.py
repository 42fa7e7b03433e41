import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_p4.allocation import Pool, TableFullError


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.integers(0, 100)), max_size=60))
def test_runs_never_overlap_are_the_lowest_and_all_come_back(steps: list[tuple[bool, int, int]]) -> None:
    pool = Pool("slots", 32)
    held: list[tuple[int, int]] = []
    for grow, count, pick in steps:
        if grow:
            taken = {index for start, size in held for index in range(start, start + size)}
            fits = [at for at in range(33 - count) if taken.isdisjoint(range(at, at + count))]
            try:
                first = pool.allocate(count)
            except TableFullError:
                assert not fits
                continue
            assert first == fits[0]
            held.append((first, count))
        elif held:
            pool.cancel(*held.pop(pick % len(held)))
        assert pool.used == sum(size for _, size in held)
    for entry in held:
        pool.cancel(*entry)
    assert pool.allocate(32) == 0


def test_a_released_run_rests_unless_nothing_else_is_left() -> None:
    pool = Pool("slots", 4)
    first = pool.allocate(2)
    pool.release(first, 2)
    assert pool.allocate(2) == 2, "packets may still be using the first run"
    assert pool.allocate(2) == 0, "the last room is waited for"


def test_a_full_table_says_which_for_what_and_how_full() -> None:
    pool = Pool("slots", 8)
    pool.allocate(6)
    with pytest.raises(TableFullError, match="slots table is full: VIP x needs 3 more, 6 of 8 entries"):
        pool.allocate(3, "VIP x")


def test_scattered_room_is_said_to_be_scattered() -> None:
    pool = Pool("slots", 4)
    pool.mark(1, taken=True)
    pool.mark(3, taken=True)
    with pytest.raises(TableFullError, match="no 2 of them adjoin"):
        pool.allocate(2)


def test_a_copy_is_tried_on_and_the_pool_stays_as_it_is() -> None:
    pool = Pool("slots", 4)
    pool.allocate(1)
    twin = pool.copy()
    assert (twin.allocate(2), pool.allocate(2)) == (1, 1)
