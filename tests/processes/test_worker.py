"""What a process says of its work."""

from __future__ import annotations

from multiprocessing import Pipe
from typing import Any

import numpy as np
import pytest
import torch

from ablate.processes.messages import Metrics, Recorded
from ablate.processes.worker import PipeReporter


def test_metrics_are_numbers() -> None:
    ours, theirs = Pipe()
    values: Any = {"own": np.float32(0.5), "tensor": torch.tensor(2), "flag": True}
    PipeReporter(theirs).metrics(values, 3)
    said = ours.recv()
    assert said == Metrics({"own": 0.5, "tensor": 2.0, "flag": 1.0}, 3)
    assert {type(value) for value in said.values.values()} == {float}


@pytest.mark.parametrize("answer", [True, False])
def test_a_state_is_saved_after_what_was_said_is_recorded(answer: bool) -> None:
    ours, theirs = Pipe()
    ours.send(answer)
    assert PipeReporter(theirs).recorded() is answer
    assert ours.recv() == Recorded()


@pytest.mark.parametrize("value", [None, "high", [1.0, 2.0]])
def test_what_is_no_number_is_the_work_s_mistake(value: Any) -> None:
    ours, theirs = Pipe()
    with pytest.raises((TypeError, ValueError)):
        PipeReporter(theirs).metrics({"own/accuracy": value})
    assert not ours.poll()
