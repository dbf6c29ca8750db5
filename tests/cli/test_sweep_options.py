"""Options of `ablate sweep` that do not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.analysis.two_stages import TwoStages
from ablate.sweeping.second_stage import seeds_to_run
from tests.support import ablate, write

AUTO = ["--seeds", "auto"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "3"], "--seeds: is auto, not '3'; seeds are given as seeds=[0,1,2]"),
        (["--effect", "0.02"], "--effect: goes with --seeds auto"),
        (["--max-seeds", "9"], "--max-seeds: goes with --seeds auto"),
        ([*AUTO, "--max-seeds", "9"], "--effect: is given with --seeds auto"),
        ([*AUTO, "--effect", "2", "--max-seeds", "9"], "--effect: is given with --seeds auto, bet"),
        ([*AUTO, "--effect", "0.02"], "--max-seeds: is given with --seeds auto"),
        ([*AUTO, "--effect", "0.02", "--max-seeds", "2"], "is less than the 3 seeds that are plan"),
        (
            [*AUTO, "--effect", "0.02", "--max-seeds", "9", "seeds=[1]"],
            "s.yaml: seeds: auto needs two seeds or more",
        ),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(house / "s.yaml", {"base": "base.yaml", "seeds": [4, 0, 1]})
    assert ablate("sweep", "s.yaml", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_more_seeds_are_those_that_are_not_taken() -> None:
    assert seeds_to_run(TwoStages(0.02, 9, (4, 0, 1), 6), [3]) == [4, 0, 1, 2, 5, 6]
