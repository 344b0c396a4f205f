"""The fair queue, against a model of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.execution.queue import FairQueue, Waiter


def waiter(principal: str, told: list[int] | None = None) -> Waiter:
    return Waiter(principal, (told if told is not None else []).append)


def popped(queue: FairQueue) -> list[str]:
    return [each.principal for each in queue.drain()]


def test_principals_take_turns_however_many_calls_each_has() -> None:
    queue = FairQueue()
    for principal in "aaaabbc":
        queue.push(waiter(principal))
    assert popped(queue) == list("abcabaa")


def test_who_was_served_goes_behind_the_others() -> None:
    queue = FairQueue()
    for principal in "aab":
        queue.push(waiter(principal))
    first = queue.pop()
    assert first is not None
    assert first.principal == "a"
    queue.push(waiter("c"))
    assert popped(queue) == list("bac")


def test_positions_are_told_as_they_change_and_only_then() -> None:
    queue = FairQueue()
    told: dict[str, list[int]] = {"a1": [], "a2": [], "b": []}
    first = waiter("a", told["a1"])
    queue.push(first)
    queue.push(waiter("a", told["a2"]))
    queue.push(waiter("b", told["b"]))
    assert told == {"a1": [1], "a2": [2, 3], "b": [2]}
    queue.remove(first)
    assert told == {"a1": [1], "a2": [2, 3, 1], "b": [2]}


def test_removing_twice_or_what_was_never_here_changes_nothing() -> None:
    queue = FairQueue()
    kept, gone = waiter("a"), waiter("a")
    queue.push(kept)
    queue.push(gone)
    queue.remove(gone)
    queue.remove(gone)
    queue.remove(waiter("a"))
    queue.remove(waiter("z"))
    assert list(queue.drain()) == [kept]
    assert queue.pop() is None


OPERATIONS = st.lists(
    st.one_of(st.sampled_from("abc"), st.just("pop"), st.integers(0, 9).map(lambda index: f"remove {index}")),
    max_size=60,
)


@given(OPERATIONS)
def test_nobody_is_lost_and_positions_are_the_order_of_serving(operations: list[str]) -> None:
    queue = FairQueue()
    inside: list[Waiter] = []
    positions: dict[Waiter, list[int]] = {}
    for operation in operations:
        match operation.split():
            case ["pop"]:
                served = queue.pop()
                assert (served is None) == (not inside)
                if served:
                    assert positions[served][-1] == 1
                    inside.remove(served)
            case ["remove", index]:
                if inside:
                    queue.remove(inside.pop(int(index) % len(inside)))
            case [principal]:
                told: list[int] = []
                new = waiter(principal, told)
                positions[new] = told
                inside.append(new)
                queue.push(new)
        assert len(queue) == len(inside)
        assert sorted(positions[each][-1] for each in inside) == list(range(1, len(inside) + 1))
    in_order = sorted(inside, key=lambda each: positions[each][-1])
    assert list(queue.drain()) == in_order


@given(st.text("abc", min_size=1, max_size=40))
def test_between_two_turns_of_a_principal_everybody_else_who_waits_has_one(arrivals: str) -> None:
    queue = FairQueue()
    for principal in arrivals:
        queue.push(waiter(principal))
    order = popped(queue)
    for index, principal in enumerate(order):
        later = order[index + 1 :]
        if principal in later:
            round_ = order[index + 1 : index + 1 + later.index(principal)]
            assert len(set(round_)) == len(round_)
            assert set(round_) == set(later) - {principal} or set(round_) >= set(
                later[later.index(principal) :]
            ) - {principal}
