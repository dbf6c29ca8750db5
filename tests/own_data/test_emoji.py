"""From a folder of pictures and a JSON to a table, by three commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.analysis.conclusions import conclude
from ablate.analysis.connect import tracking_uri
from ablate.analysis.evidence import from_store
from tests.own_data.emoji import make


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches the pictures")
def test_a_model_that_sees_answers_what_a_blind_one_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About seven minutes on two quiet cores (python -m tests.own_data.emoji makes the data)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = make(tmp_path / "mine")
    for words in (
        ["init", "--data", str(data), "--images", str(data.parent / "pictures")],
        ["sweep", "emoji/emoji.yaml"],
        ["report", "emoji"],
    ):
        subprocess.run([sys.executable, "-m", "ablate", *words], check=True)
    findings = conclude(from_store(tracking_uri(), "emoji"))
    accuracy = next(each for each in findings.conclusions if each.benchmark == "held-out")
    (blind,) = [each for each in accuracy.comparisons if each.variant == "blind"]
    assert blind.verdict == "worse"
