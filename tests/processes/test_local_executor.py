"""Tasks in processes of this machine."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from ablate.processes.executors import LocalExecutor, Task, preload
from ablate.processes.messages import Done, Failed, Message, Progress, Reporter
from tests.processes.executor_contract import ExecutorContract, fails, is_gone
from tests.support import wait_for


def tells_pid(reporter: Reporter) -> None:
    """Work that says which process does it."""
    reporter.progress("pid", float(os.getpid()))


def tells_garbage(reporter: Reporter) -> None:
    """Work that says whether garbage is collected, and how many objects never are."""
    reporter.progress("collects", float(gc.isenabled()))
    reporter.progress("keeps", float(gc.get_freeze_count()))


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _here(self) -> None:
        preload("ablate.processes.worker", "tests.processes.executor_contract")
        self.executor = LocalExecutor()

    def test_a_process_stays_for_tasks_of_its_sort(self) -> None:
        """Until one fails, another device is wanted, or a task that is to have its own."""
        kinds = [(True, "0"), (True, "0"), (True, "1"), (False, "1"), (True, "1"), (True, "1")]
        tasks = [
            Task(number, tells_pid, (), 1, device, stays=stays)
            for number, (stays, device) in enumerate(kinds)
        ]
        failing = Task("fails", fails, ("error",), 1, "1", stays=True)
        said = self.run([*tasks, failing, Task("after", tells_pid, (), 1, "1", stays=True)])
        pids = [message.fraction for _, message in said if isinstance(message, Progress)]
        groups = [len(list(group)) for _, group in itertools.groupby(pids)]
        assert groups == [2, 1, 1, 2, 1]
        assert len(set(pids)) == 5
        assert [key for key, message in said if isinstance(message, Failed)] == ["fails"]
        assert all(is_gone(pid) for pid in pids)

    def test_what_the_server_imported_is_no_garbage_of_a_task(self) -> None:
        said = self.run([Task("garbage", tells_garbage, (), 1)])
        collects, keeps = (m.fraction for _, m in said if isinstance(m, Progress))
        assert collects
        assert keeps > 100_000  # of torch alone

    def test_one_that_has_died_while_it_waited_is_replaced(self) -> None:
        pids: list[float] = []

        def remember(task: Task, message: Message) -> None:
            if isinstance(message, Progress):
                pids.append(message.fraction)

        def tasks() -> Iterator[Task]:
            for number in range(2):
                yield Task(number, tells_pid, (), 1, stays=True)
                if number == 0:
                    os.kill(int(pids[0]), signal.SIGKILL)
                    wait_for(lambda: not psutil.pid_exists(int(pids[0])))

        said = self.run(tasks(), answer=remember)
        assert [key for key, message in said if isinstance(message, Done)] == [0, 1]
        assert pids[0] != pids[1]
