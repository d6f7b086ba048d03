"""Work for several processes: results in order, and a process that dies costs one item at most."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import cv2
from threadpoolctl import threadpool_limits

from lesionseg.errors import LesionsegError

DIED = "that its process dies, even with nothing beside it, most likely for want of memory"
_AHEAD = 3  # parts in work or waiting, for each process; bounds what is in memory
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_LARGEST = 32 * 2**20  # bytes; the most that glibc takes for them
S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
logger = logging.getLogger(__name__)


def died(name: object) -> LesionsegError:
    """What to say of an item that is `lost`, see `in_processes`."""
    return LesionsegError(
        f"{name}: expected an image that fits into memory, found {DIED}. Reduce it or save it anew, or leave it out"
    )


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[S, list[T]], list[R]],
    state: S,
    items: Iterable[T],
    workers: int,
    lost: Callable[[T], R],
    *,
    together: int = 1,
    start: Callable[[], None] | None = None,
    fork: bool = False,
) -> Iterator[R]:
    """The results of `work(state, items)`, in the order of the items, computed by several processes of one thread each.

    A process that is killed, by the system for want of memory in most cases, takes its pool with it. What was in work
    is then done again, one item at a time and nothing beside it. An item over which that process dies too has the result
    `lost(item)`. Where there is no such item, the processes were too many: half as many go on.

    Args:
        work: what is done with some items; a function of a module, as processes are sent its name.
        state: what it needs for all of them. Forked processes have it at once, others are sent a copy each.
        items: taken as they are needed.
        workers: processes. 1 does everything in this one, which then is not protected.
        lost: see above; called in this process.
        together: so many items a call.
        start: is called once in each process.
        fork: make processes by copying this one. That is quick, but a copy has none of the threads of this process, and
            waits for ever where it needs one.

    Raises:
        LesionsegError: processes die as they start.
    """
    parts = _parts(items, together)
    if workers <= 1:
        for part in parts:
            yield from work(state, part)
        return
    begin = partial(_begin, work, state, start)
    while True:
        waiting: deque[list[T]] = deque()
        try:
            yield from _until_one_dies(parts, waiting, workers, begin, fork)
            return
        except _Death:
            again = [item for part in waiting for item in part]
        logger.warning(
            "a worker process died, most likely for want of memory: doing %d images again, one by one",
            len(again),
        )
        deadly = False

        def give_up(item: T) -> R:
            nonlocal deadly
            deadly = True
            return lost(item)

        yield from _one_by_one(again, begin, fork, give_up)
        if not deadly:
            workers = max(1, workers // 2)
            logger.warning("each of them alone could be done: going on with %d processes", workers)


def each(work: Callable[[T], R], items: list[T]) -> list[R]:
    """For `in_processes`, where `work` takes one item and is all the state there is."""
    return [work(item) for item in items]


class _Death(Exception):
    """A process died, or ran out of memory."""


def _until_one_dies(
    parts: Iterator[list[T]],
    waiting: deque[list[T]],
    workers: int,
    begin: Callable[[], None],
    fork: bool,
) -> Iterator[Any]:
    """Results of the parts; where a _Death ends them, `waiting` holds the parts that were taken and not yielded."""
    futures: deque[Future[list[Any]]] = deque()
    with _processes(workers, begin, fork) as pool:
        for part in parts:
            waiting.append(part)
            futures.append(_submitted(pool, part))
            if len(waiting) >= _AHEAD * workers:
                yield from _result(futures.popleft())
                waiting.popleft()
        while waiting:
            yield from _result(futures.popleft())
            waiting.popleft()


def _one_by_one(
    items: Iterable[T], begin: Callable[[], None], fork: bool, lost: Callable[[T], R]
) -> Iterator[R]:
    left = deque(items)
    while left:
        with _processes(1, begin, fork) as pool:
            try:
                # A process that cannot start is not the fault of any item.
                pool.submit(int).result()
            except BrokenProcessPool as error:
                raise LesionsegError(
                    "a worker process died as it started, most likely for want of memory. What is done is kept: run the same "
                    "command again with fewer --workers"
                ) from error
            try:
                while left:
                    yield from _result(_submitted(pool, [left[0]]))
                    left.popleft()
            except _Death:
                yield lost(left.popleft())


@contextmanager
def _processes(number: int, begin: Callable[[], None], fork: bool) -> Iterator[ProcessPoolExecutor]:
    if fork:
        gc.freeze()  # a full collection would write to, and so copy, whatever this process shares with its workers
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("fork" if fork else "spawn"), begin)
    try:
        if fork:
            _submitted(pool, None)  # copies this process now, before the taking of items starts threads
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        gc.unfreeze()


def _submitted(pool: ProcessPoolExecutor, part: list[Any] | None) -> Future[list[Any]]:
    try:
        return pool.submit(_do, part)
    except BrokenProcessPool as error:
        raise _Death from error


def _result(future: Future[list[Any]]) -> list[Any]:
    try:
        return future.result()
    except (BrokenProcessPool, MemoryError) as error:
        raise _Death from error


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


_work: Callable[[list[Any]], list[Any]]  # in a worker process


def _begin(work: Callable[[S, list[T]], list[R]], state: S, start: Callable[[], None] | None) -> None:
    global _work
    _work = partial(work, state)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which stops the workers
    cv2.setNumThreads(0)  # 1 would wait for the threads of OpenCV's pool, which are not in a fork
    threadpool_limits(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if start is not None:
        start()


def _do(part: list[Any] | None) -> list[Any]:
    return _work(part) if part else []


def _leave_with_parent() -> None:
    """End this process when its parent ends: a parent that is killed cannot stop it, and it would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def keep_freed_memory() -> None:
    """Let this process use the memory of one image for the next.

    By default glibc hands arrays of megabytes back to the system, which then gives them out anew page by page, cleared: a
    fifth of the processor time of preparing large photographs. Does nothing where there is no glibc.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGEST)
            mallopt(_TRIM_THRESHOLD, 8 * _LARGEST)
