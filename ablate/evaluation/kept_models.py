"""Models that runs have kept in the store."""

from __future__ import annotations

from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.utils.uri import is_local_uri

from ablate.analysis.connect import refusals
from ablate.models.saved import MODEL
from ablate.tracking.store import Tracker


def saved_model(
    tracker: Tracker, run: Run, out: Path | None = None, *, copies: bool = False
) -> Path | None:
    """The folder of a run's model: where the store has it, or else fetched.

    Args:
        tracker: the store.
        run: the run.
        out: a folder for what is fetched; a temporary one if not given.
        copies: whether a local store's folder is copied to ``out``, too.

    Returns:
        None if the run has not kept its model.

    Raises:
        StoreError: the store does not give it.
    """
    with refusals(tracker.uri):
        kept = tracker.client.list_artifacts(run.info.run_id)
        if not any(artifact.path == MODEL for artifact in kept):
            return None
        place = f"{run.info.artifact_uri}/{MODEL}"
        if out is None or (is_local_uri(place) and not copies):
            return Path(download_artifacts(place, tracking_uri=tracker.uri))
        folder = out / run.info.run_id
        folder.mkdir(exist_ok=True)
        return Path(download_artifacts(place, dst_path=str(folder), tracking_uri=tracker.uri))
