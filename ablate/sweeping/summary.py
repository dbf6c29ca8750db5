"""What a sweep leaves on its parent run at its end: a summary, and thumbnails for its page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from ablate.analysis.conclusions import Findings, conclude
from ablate.analysis.disagreement import disputed
from ablate.analysis.evidence import from_store
from ablate.analysis.page import summary
from ablate.analysis.page.extras import THUMBNAILS
from ablate.analysis.results import ResultsError
from ablate.config.registries import run_benchmark
from ablate.config.schema import RunConfig
from ablate.data.lengths import question_reader
from ablate.sweeping.plan import Plan
from ablate.tracking.names import storable
from ablate.tracking.store import Tracker

NOTE = "mlflow.note.content"
"""The tag that MLflow's pages show as a run's description, in Markdown."""
NOTE_LENGTH = 5000
SIDE, QUALITY = 96, 80
"""Pixels of a thumbnail's longer side, and the quality of its JPEG."""


def keep_summary(tracker: Tracker, parent: str, title: str, plan: Plan, cache: Path) -> None:
    """Describe the parent run by what was found, and keep the images of disputed items.

    ``title``: what the sweep is called in the store. One that nothing can be concluded of yet keeps
    neither.
    """
    try:
        findings = conclude(from_store(tracker.uri, title))
    except ResultsError:
        return
    describe_run(tracker, parent, findings)
    images = thumbnails(findings, plan.cells[0].config, cache)
    if images:
        tracker.client.log_dict(parent, images, THUMBNAILS)


def describe_run(tracker: Tracker, parent: str, findings: Findings) -> None:
    """Set the parent run's description."""
    text = summary(findings)
    if len(text) > NOTE_LENGTH:
        command = "the whole table: ablate report"
        text = f"{text[:NOTE_LENGTH].rpartition(chr(10))[0]}\n\n({command})"
    tracker.client.set_tag(parent, NOTE, storable(text))


def thumbnails(findings: Findings, config: RunConfig, cache: Path) -> dict[str, dict[str, str]]:
    """Benchmark -> item -> a small JPEG in base64, of the items that variants disagree on.

    What cannot be read again is left out.
    """
    wanted: dict[str, set[str]] = {}
    for each in disputed(findings.evidence):
        wanted.setdefault(each.benchmark, set()).add(each.item)
    found: dict[str, dict[str, str]] = {}
    for name, items in wanted.items():
        try:
            pictures = _pictures(name, items, config, cache)
            found[name] = {item: _jpeg(image) for item, image in pictures}
        except (ValueError, OSError, LookupError, TypeError):
            continue
    return found


def _pictures(
    name: str, items: set[str], config: RunConfig, cache: Path
) -> Iterable[tuple[str, Image.Image]]:
    """The images of a benchmark's items, found by their ids."""
    evaluated = config.evaluate
    samples = run_benchmark(config, name).chosen(cache, evaluated.split, evaluated.limit)
    read = question_reader(samples) or samples.__getitem__
    for index in range(len(samples)):
        if read(index).id in items:
            sample = samples[index]
            if sample.image is not None:
                yield sample.id, sample.image


def _jpeg(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "jpeg", quality=QUALITY)
    return base64.b64encode(stream.getvalue()).decode()
