"""Threads for drivers: as many as are wanted, and what they return comes back in the hub."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import wait_in_hub_until
from vmw_cloudinit_metadata.process.threads import Threads


class Calls:
    """What was called back."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, Any, BaseException | None]] = []
        self.in_threads: set[int] = set()

    def of(self, name: Any) -> Any:
        return partial(self._call, name)

    def _call(self, name: Any, result: Any, error: BaseException | None) -> None:
        self.in_threads.add(threading.get_ident())
        self.made.append((name, result, error))

    def wait_for(self, count: int) -> None:
        wait_in_hub_until(lambda: len(self.made) >= count)


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    end(threads)


def alive() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("driver ")]


def end(threads: Threads) -> None:
    threads.close()
    for one in alive():
        one.join(5)
        assert not one.is_alive(), "a pool of another test was not closed"


@given(st.integers(0, 30))
def test_each_is_called_back_once_in_the_hub(count: int) -> None:
    threads, calls = Threads(), Calls()
    for number in range(count):
        threads.run(lambda number=number: number * number, calls.of(number))
    assert calls.made == []  # nothing is called back before the hub has its turn
    calls.wait_for(count)
    gevent.sleep(0)
    assert sorted(calls.made) == [(number, number * number, None) for number in range(count)]
    assert calls.in_threads <= {threading.get_ident()}
    end(threads)


def test_threads_are_begun_when_they_are_wanted(threads: Threads) -> None:
    calls = Calls()
    for number in range(3):
        threads.run(int, calls.of(number))
        calls.wait_for(number + 1)
    assert len(alive()) == 1
    barrier = threading.Barrier(5, timeout=5)  # passed by five at the same time, and by no fewer
    for number in range(5):
        threads.run(barrier.wait, calls.of(number))
    calls.wait_for(3 + 5)
    assert len(alive()) == 5


def test_what_is_raised_comes_back(threads: Threads) -> None:
    calls = Calls()
    for error in (ValueError("bad"), SystemExit(3)):
        threads.run(partial(_raise, error), calls.of("it"))
        calls.wait_for(1)
        assert calls.made.pop() == ("it", None, error)
    threads.run(int, calls.of("again"))
    calls.wait_for(1)
    assert calls.made == [("again", 0, None)]


def _raise(error: BaseException) -> None:
    raise error


def test_error_in_a_callback_costs_no_other_one(threads: Threads) -> None:
    calls, told = Calls(), []
    hub = gevent.get_hub()
    before = hub.print_exception
    hub.print_exception = lambda *error: told.append(error[1])  # type: ignore[method-assign]
    threads.run(int, lambda _result, _error: _raise(ValueError("mine")))
    threads.run(int, calls.of("other"))
    calls.wait_for(1)
    hub.print_exception = before  # type: ignore[method-assign]
    assert told == [ValueError]


def test_idle_thread_keeps_nothing(threads: Threads) -> None:
    class Answer:
        pass

    def work() -> Answer:
        answer = Answer()
        there.append(weakref.ref(answer))
        return answer

    there: list[weakref.ref[Answer]] = []
    done: list[bool] = []
    threads.run(work, lambda _result, _error: done.append(True))
    with gevent.Timeout(60):
        while not done:
            gevent.sleep(0.001)
    gevent.sleep(0)
    gc.collect()
    assert there[0]() is None


def test_closed_ones_end_and_call_nobody_back() -> None:
    threads, calls = Threads(), Calls()
    blocked = threading.Event()
    threads.run(blocked.wait, calls.of("late"))
    threads.run(int, calls.of("prompt"))
    calls.wait_for(1)
    threads.close()
    blocked.set()
    end(threads)
    gevent.sleep(0.01)
    assert alive() == []
    assert [name for name, *_ in calls.made] == ["prompt"]


def cannot_begin(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_any_thread_that_is_called_back(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_begin)
        threads.run(int, calls.of("none"))
        calls.wait_for(1)
    ((_, _, error),) = calls.made
    assert isinstance(error, RuntimeError)
    threads.run(int, calls.of("again"))
    calls.wait_for(2)
    assert calls.made[1] == ("again", 0, None)


def test_without_a_further_thread_the_others_do_it(
    threads: Threads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, may_end = Calls(), threading.Event()
    threads.run(may_end.wait, calls.of("first"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_begin)
        for number in range(3):
            threads.run(int, calls.of(number))
    assert len(caplog.messages) == 1
    may_end.set()
    calls.wait_for(4)
    assert [name for name, *_ in calls.made] == ["first", 0, 1, 2]
    assert len(alive()) == 1
