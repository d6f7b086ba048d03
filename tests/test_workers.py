"""Several processes: their order, and what happens when one of them dies."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from lesionseg.errors import LesionsegError
from lesionseg.workers import died, each, in_processes

both_ways = pytest.mark.parametrize("fork", [False, True])


def square(item: int) -> tuple[int, int]:
    return item * item, os.getpid()


def lost(item: int) -> tuple[int, int]:
    return -item, 0


def fatal_at(fatal: set[int], items: list[int]) -> list[tuple[int, int]]:
    for item in items:
        if item in fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    return [square(item) for item in items]


def too_large_at(item: int, too_large: int) -> tuple[int, int]:
    if item == too_large:
        raise MemoryError
    return square(item)


def fatal_once(item: int, folder: Path) -> tuple[int, int]:
    """As where several processes together need more memory than there is."""
    if item == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(item)


def numbers(pairs: Iterator[tuple[int, int]]) -> list[int]:
    return [number for number, _ in pairs]


@both_ways
def test_order_and_processes(fork: bool) -> None:
    results = list(in_processes(each, square, range(50), 3, lost, together=4, fork=fork))
    assert [number for number, _ in results] == [item * item for item in range(50)]
    used = {process for _, process in results}
    assert os.getpid() not in used and 1 <= len(used) <= 3


def test_one_worker_is_this_process() -> None:
    results = list(in_processes(each, square, range(5), 1, lost, together=2))
    assert results == [(item * item, os.getpid()) for item in range(5)]


@both_ways
def test_an_item_that_kills_its_process_is_lost_alone(fork: bool) -> None:
    expected = [-item if item in (7, 12) else item * item for item in range(40)]
    assert numbers(in_processes(fatal_at, {7, 12}, range(40), 2, lost, together=3, fork=fork)) == expected


def test_an_item_that_does_not_fit_into_memory_is_lost_alone() -> None:
    work = partial(too_large_at, too_large=5)
    expected = [-item if item == 5 else item * item for item in range(20)]
    assert numbers(in_processes(each, work, range(20), 2, lost, together=4)) == expected


def test_too_many_processes_become_fewer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = partial(fatal_once, folder=tmp_path)
    with caplog.at_level(logging.WARNING):
        results = list(in_processes(each, work, range(60), 4, lost))
    assert [number for number, _ in results] == [item * item for item in range(60)]
    assert "going on with 2 processes" in caplog.text
    assert len({process for _, process in results[-30:]}) <= 2


def test_processes_that_cannot_start() -> None:
    with pytest.raises(LesionsegError, match="--workers"):
        list(in_processes(each, square, range(9), 2, lost, start=partial(os._exit, 1)))


def test_mistakes_of_the_work_are_not_hidden() -> None:
    with pytest.raises(TypeError):
        list(in_processes(each, square, ["a", "b", "c"], 2, lost))  # type: ignore[arg-type]


def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = in_processes(each, square, items(), 2, lost, together=5)
    assert numbers(islice(results, 3)) == [0, 1, 4]
    assert len(taken) <= 2 * 3 * 5
    results.close()  # type: ignore[attr-defined]


def test_trouble_in_the_items_is_not_taken_for_a_worker_s() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise MemoryError("here")

    with pytest.raises(MemoryError, match="here"):
        list(in_processes(each, square, items(), 2, lost))


def test_what_is_said_names_the_file() -> None:
    assert str(died("a/b.jpg")).startswith("a/b.jpg: expected an image that fits into memory, found ")
