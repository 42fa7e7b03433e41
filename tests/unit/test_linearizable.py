"""The checker of histories, against histories whose answer is known, and against trying all orders."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from mininet_topos.experiments.linearizable import Operation, is_linearizable


def write(value: int, began: float, ended: float = float("inf")) -> Operation:
    return Operation(True, value, began, ended)


def read(value: int | None, began: float, ended: float) -> Operation:
    return Operation(False, value, began, ended)


def test_a_read_after_a_write_returns_it() -> None:
    assert is_linearizable([write(1, 0, 1), read(1, 2, 3)])
    assert not is_linearizable([write(1, 0, 1), read(None, 2, 3)])


def test_no_read_goes_back() -> None:
    assert not is_linearizable([write(1, 0, 9), read(1, 1, 2), read(None, 3, 4)])


def test_a_write_without_an_answer_may_be_done_late_or_never() -> None:
    assert is_linearizable([write(1, 0), read(None, 1, 2), read(1, 3, 4)])
    assert is_linearizable([write(1, 0), read(None, 1, 2)])
    assert not is_linearizable([write(1, 0), read(1, 1, 2), read(None, 3, 4)])


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 8), st.integers(1, 4)), max_size=5)
)
def test_the_answer_is_that_of_trying_all_orders(drawn: list[tuple[bool, int, int, int]]) -> None:
    history = [Operation(writes, value, began, began + lasts) for writes, value, began, lasts in drawn]

    def fits(order: tuple[Operation, ...]) -> bool:
        value: object = None
        for index, operation in enumerate(order):
            if any(later.ended < operation.began for later in order[index + 1 :]):
                return False
            if operation.writes:
                value = operation.value
            elif operation.value != value:
                return False
        return True

    assert is_linearizable(history) == any(fits(order) for order in permutations(history))
