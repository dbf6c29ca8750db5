"""What holds of every executor."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from ablate.errors import CellError
from ablate.processes.executors import Executor, Task, execute
from ablate.processes.interrupts import held
from ablate.processes.messages import (
    Done,
    Ended,
    Failed,
    Message,
    Note,
    Progress,
    Recorded,
    Reporter,
    Started,
    StepDone,
    Stopping,
    Stored,
    Validated,
)
from ablate.processes.stopping import asked, deferred
from tests.support import wait_for

SEED = 5
Said = list[tuple[Any, Message]]


def tells(path: Path, reporter: Reporter) -> None:
    """Work that says all kinds of things."""
    reporter.note("begins")
    path.write_text("whole")
    reporter.keep(path)
    answers = [reporter.recorded(), reporter.keep_going(3, {"loss": 0.5}), reporter.recorded()]
    reporter.note(str(answers))
    reporter.done("train")


def fails(how: str, reporter: Reporter) -> None:
    """Work that does not end well."""
    if how == "cell":
        raise CellError("no number")
    if how == "error":
        raise ValueError("two lines,\nof which the log has more")
    if how == "memory":
        raise torch.OutOfMemoryError("2 GiB")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


def state() -> list[Any]:
    """What a process must not have from another, and the threads that it has."""
    marks = [getattr(sys, "mark", None), os.environ.get("MARK"), Path.cwd() == Path("/")]
    return [*marks, torch.initial_seed() == SEED, torch.get_num_threads()]


def spoils(reporter: Reporter) -> None:
    """Work that leaves its process as no other should find it; says how it was."""
    reporter.note(repr(state()))
    reporter.progress("server", float(os.getppid()))
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    sys.mark = "spoilt"  # type: ignore[attr-defined]
    os.environ["MARK"] = "spoilt"
    os.chdir("/")


def sees(reporter: Reporter) -> None:
    """Work that says which device it sees, and lasts."""
    reporter.note(str(os.environ.get("CUDA_VISIBLE_DEVICES")))
    time.sleep(0.5)


def asked_to_end(reporter: Reporter) -> None:
    """Work without end, which saves its state when it is asked to end."""
    with deferred():
        reporter.progress("pid", float(os.getpid()))
        while not asked():
            time.sleep(0.05)
        Path("saved").write_text(str(reporter.recorded()))


def never_ends(reporter: Reporter) -> None:
    """Work that does not heed what it is asked."""
    with deferred():
        reporter.progress("pid", float(os.getpid()))
        time.sleep(1000)


def is_gone(pid: float) -> bool:
    """Whether a process is."""
    return not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie"


@pytest.mark.usefixtures("heed_ctrl_c")
class ExecutorContract:
    """Inherited by a test class of each executor, which gives the fixture ``executor``."""

    executor: Executor

    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def run(
        self,
        tasks: Iterable[Task | None],
        jobs: int = 1,
        answer: Callable[[Task, Message], Any] = lambda task, message: True,
        meanwhile: Any = None,
        seen: Said | None = None,
    ) -> Said:
        """What tasks say, with their keys."""
        said: Said = [] if seen is None else seen

        def handle(task: Task, message: Message) -> Any:
            said.append((task.key, message))
            return answer(task, message)

        execute(tasks, jobs, handle, meanwhile, self.executor)
        return said

    def test_messages_come_in_order_and_are_answered(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        read: list[str] = []

        def answer(task: Task, message: Message) -> bool:
            if isinstance(message, Stored):
                read.append(message.path.read_text())
            return isinstance(message, Validated)

        said = self.run([Task("a", partial(tells, path), (), 1)], answer=answer)
        validated = Validated(3, {"loss": 0.5})
        words = [Started(), Note("begins"), Stored(path), Recorded(), validated, Recorded()]
        words += [Note("[False, True, False]"), StepDone("train"), Done()]
        assert said == [("a", word) for word in words]
        assert read == ["whole"]

    def test_each_task_ends_with_one_last_message(self) -> None:
        hows = ["cell", "error", "memory", "killed", "exit"]
        said = self.run([Task(how, fails, (how,), 1) for how in hows])
        found: dict[str, Failed] = {}
        for how, message in said:
            if not isinstance(message, Started):
                assert isinstance(message, Failed)
                assert how not in found
                found[how] = message
        assert [found["cell"].reason, found["error"].reason] == [
            "no number",
            "ValueError: two lines,\nof which the log has more",
        ]
        assert "in fails\n" in found["error"].traceback
        assert "exit code -9" in found["killed"].reason
        assert "exit code 3" in found["exit"].reason
        assert [how for how in hows if found[how].memory] == ["memory", "killed"]
        assert not any(each.lost for each in found.values())

    def test_a_task_finds_nothing_of_another(self) -> None:
        tasks = [Task(number, spoils, (), 2) for number in range(4)]
        said = [message for _, message in self.run(tasks)]
        clean = repr([None, None, False, False, 2])
        assert [m.text for m in said if isinstance(m, Note)] == [clean] * 4
        servers = {m.fraction for m in said if isinstance(m, Progress)}
        assert len(servers) < 3  # a server is used again, and what it has imported

    def test_a_task_sees_its_own_device_alone(self) -> None:
        said = self.run([Task(device, sees, (), 1, device) for device in ("0", "1")], jobs=2)
        devices = [message.text for _, message in said if isinstance(message, Note)]
        assert sorted(devices) == ["0", "1"]

    def test_so_many_at_a_time_in_order(self) -> None:
        running = most = 0

        def count(task: Task, message: Message) -> None:
            nonlocal running, most
            running += isinstance(message, Started) - isinstance(message, Done)
            most = max(most, running)

        said = self.run([Task(n, sees, (), 1) for n in range(4)], 2, count)
        assert most == 2
        assert [key for key, message in said if isinstance(message, Started)] == [0, 1, 2, 3]
        assert sum(isinstance(message, Done) for _, message in said) == 4

    def test_tasks_come_later_and_are_dropped(self) -> None:
        """One that is dropped is killed, and says nothing more."""
        said: Said = []
        pids: list[float] = []

        def remember(task: Task, message: Message) -> None:
            if isinstance(message, Progress):
                pids.append(message.fraction)

        def dropped() -> set[str]:
            return {"a"} if pids else set()

        given = [None, Task("a", never_ends, (), 1), None]
        self.run(given, 1, remember, dropped, said)
        assert [type(message) for _, message in said] == [Started, Progress]
        wait_for(lambda: is_gone(pids[0]))

    def test_the_first_ctrl_c_lets_work_save_its_state(self, tmp_path: Path) -> None:
        said: Said = []

        def press(task: Task, message: Message) -> bool:
            if isinstance(message, Progress):
                signal.raise_signal(signal.SIGINT)
            return True

        with pytest.raises(KeyboardInterrupt), held():
            self.run([Task(0, asked_to_end, (), 1)], 1, press, seen=said)
        kinds = [type(message) for _, message in said]
        assert kinds == [Started, Progress, Stopping, Recorded, Ended]
        assert (tmp_path / "saved").read_text() == "True"

    def test_the_second_kills(self) -> None:
        said: Said = []
        pids: list[float] = []

        def press(task: Task, message: Message) -> None:
            if isinstance(message, Progress):
                pids.append(message.fraction)
            if isinstance(message, Progress | Stopping):
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt), held():
            self.run([Task(0, never_ends, (), 1)], 1, press, seen=said)
        assert [type(message) for _, message in said] == [Started, Progress, Stopping]
        wait_for(lambda: is_gone(pids[0]))

    def test_after_an_error_no_state_is_saved_and_nothing_runs_on(self, tmp_path: Path) -> None:
        """Where what was said could not be recorded, say."""
        pids: list[float] = []

        def refuse(task: Task, message: Message) -> bool:
            if isinstance(message, Progress):
                pids.append(message.fraction)
                raise OSError("the store is away")
            return True

        with pytest.raises(OSError, match="the store is away"):
            self.run([Task(0, asked_to_end, (), 1)], 1, refuse)
        assert (tmp_path / "saved").read_text() == "False"
        wait_for(lambda: is_gone(pids[0]))
