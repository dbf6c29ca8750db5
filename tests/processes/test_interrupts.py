"""Signals held back, let through, ignored and left to other threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest

from ablate.processes.executors import LocalExecutor, LocalRunning, Task, execute
from ablate.processes.interrupts import SIGNALS, held, let_through, not_held
from ablate.processes.messages import Ended, Message, Started, Stopping

pytestmark = pytest.mark.usefixtures("heed_ctrl_c")


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


def hold(*steps: Callable[[], object]) -> list[object]:
    """Take the steps while signals are held back; what is left of them when one raises."""
    left: list[object] = list(steps)
    with suppress(KeyboardInterrupt), held():
        for step in steps:
            step()
            left.remove(step)
    return left


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_signal_is_raised_where_it_is_let_through() -> None:
    before = handlers()
    assert hold(press, os.getpid, let_through, os.getppid) == [let_through, os.getppid]
    assert handlers() == before
    let_through()  # nothing is left


def test_a_signal_is_raised_on_leaving_at_the_latest() -> None:
    with pytest.raises(KeyboardInterrupt), held():
        press()
    assert hold(let_through) == []  # a later one begins without it


def test_sigterm_ends_with_the_shells_code() -> None:
    with pytest.raises(SystemExit) as ended:
        hold(partial(signal.raise_signal, signal.SIGTERM), press)  # the first one counts
    assert ended.value.code == 143


def test_a_signal_does_not_hide_the_error_on_its_way() -> None:
    before = handlers()
    with pytest.raises(ZeroDivisionError):
        hold(press, lambda: 1 / 0)
    assert handlers() == before


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert hold(press, let_through) == []


def test_another_thread_changes_nothing() -> None:
    before, found = handlers(), []

    thread = threading.Thread(target=hold, args=[lambda: found.append(handlers())])
    thread.start()
    thread.join()
    assert found == [before]


def test_a_cell_that_died_of_the_same_signal_has_not_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()  # it is dead before its first message is read
    process = Mock(exitcode=1)
    monkeypatch.setattr(
        LocalExecutor, "start", lambda self, task: LocalRunning(task, ours, process, self)
    )
    seen: list[Message] = []

    def handle(task: Task, message: Message) -> None:
        seen.append(message)
        if isinstance(message, Started):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), held():
        execute([Task(0, print, (), 1)], 1, handle)
    assert seen == [Started(), Stopping(), Ended()]
    process.terminate.assert_called_once_with()


def test_within_held_a_signal_raises_where_it_is_not_held() -> None:
    before = handlers()
    with held():
        inside = handlers()
        with pytest.raises(KeyboardInterrupt), not_held():
            press()
        assert handlers() == inside
        press()
        with pytest.raises(KeyboardInterrupt), not_held():
            pytest.fail("a signal that came before is not kept waiting")
        with not_held():
            assert handlers() == before
        assert handlers() == inside
    assert handlers() == before
