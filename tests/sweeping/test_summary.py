"""What a sweep leaves on its parent run: a description, and the images of disputed items."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from ablate.analysis.conclusions import conclude
from ablate.analysis.connect import tracking_uri
from ablate.analysis.evidence import Evidence
from ablate.config.compose import Layer, compose, expand
from ablate.config.registries import benchmark_named
from ablate.sweeping.summary import NOTE, NOTE_LENGTH, describe_run, thumbnails
from ablate.tracking.store import Tracker
from tests.analysis.planted import drawn, plant
from tests.analysis.test_conclusions import evidence
from tests.support import BASE, ablate, runs, write


def test_a_sweep_describes_its_parent_run_and_its_page_is_kept_there(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = {"connector": ["linear", "mlp"]}
    file = {"base": "base.yaml", "axes": axes, "seeds": [0, 1], "measure": {"what": []}}
    write(house / "50 % <b>.yaml", file)
    assert ablate("sweep", "50 % <b>.yaml") == 0
    (parent,) = runs("sweep")
    note = parent.data.tags[NOTE]
    assert "easy-vqa accuracy: undecided against linear: mlp" in note
    assert "| connector" in note
    capsys.readouterr()
    assert ablate("report", "50 % <b>", "--html") == 0
    assert capsys.readouterr().out.startswith("50 % <b>.html (")
    assert (house / "50 % <b>.html").stat().st_size > 20_000
    client = Tracker().client
    assert "50 % <b>.html" in {a.path for a in client.list_artifacts(parent.info.run_id)}


def test_a_summary_that_fails_costs_nothing_else(
    house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("what")

    monkeypatch.setattr("ablate.sweeping.run.keep_summary", fail)
    write(house / "s.yaml", {"base": "base.yaml", "measure": {"what": []}})
    assert ablate("sweep", "s.yaml") == 0
    assert "no new description: KeyError: 'what'" in capsys.readouterr().out
    assert [run.info.status for run in runs("sweep")] == ["FINISHED"]


def test_thumbnails_are_of_items_that_variants_disagree_on(cache: Path) -> None:
    samples = benchmark_named("easy-vqa").samples(cache, "test", 12)
    ids = [samples[i].id for i in range(12)]
    rows = [
        {"variant": v, "seed": s, "benchmark": b, "item": item, "image": item, "score": score}
        for v, wrong in (("a", 0), ("b", 3))
        for s in (0, 1)
        for b in ("easy-vqa", "gone:Missing")
        for n, item in enumerate(ids)
        for score in [float(n >= wrong)]
    ]
    labels = {v: {"x": v} for v in "ab"}
    found = conclude(Evidence("p", labels, pd.DataFrame(rows), pd.DataFrame(), pd.DataFrame()))
    config = compose([Layer("base", expand(BASE, "base"))])
    made = thumbnails(found, config, cache)
    assert set(made) == {"easy-vqa"}
    assert set(made["easy-vqa"]) == set(ids[:3])
    image = Image.open(io.BytesIO(base64.b64decode(made["easy-vqa"][ids[0]])))
    assert image.format == "JPEG"
    assert max(image.size) <= 96
    assert len(json.dumps(made)) < 12_000


def test_a_long_description_is_cut_at_a_line(house: Path) -> None:
    tracker = Tracker()
    parent = plant(tracking_uri(), "s", {"easy-vqa": drawn({"mlp": 0.6, "linear": 0.5})})
    many = {f"a variant with a long name, its number being {n}, and so on": 0.5 for n in range(24)}
    describe_run(tracker, parent, conclude(evidence(drawn(many, seeds=2, images=5))))
    note = tracker.client.get_run(parent).data.tags[NOTE]
    assert len(note) < NOTE_LENGTH + 100
    assert note.endswith("(the whole table: ablate report)")
