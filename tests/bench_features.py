"""Time a sweep with stored features and without: ``python -m tests.bench_features``.

Six cells (two connectors, three seeds) on an encoder of DINOv2's and SigLIP's shapes at 384 pixels,
of one block each, with random weights in files: as with published weights, all seeds share them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import yaml
from mlflow import MlflowClient
from safetensors.torch import save_file

from ablate.tracking.store import Tracker

MODELS = {"vit_large_patch14_reg4_dinov2": 384, "vit_so400m_patch14_siglip_384": 384}
ROOT = Path(__file__).parents[1]


def sweep(folder: Path, images: int, epochs: int) -> dict[str, Any]:
    """The sweep; writes the encoders' weights into ``folder``."""
    parts = []
    for model, size in MODELS.items():
        path = folder / f"{model}.safetensors"
        vit = timm.create_model(model, img_size=size, depth=1, num_classes=0)
        save_file(vit.state_dict(), path)
        args = {"model": model, "image_size": size, "model_args": {"depth": 1}, "block": -1}
        parts.append({"name": "timm", "args": args | {"weights": str(path)}})
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    width = {"hidden_size": 32, "intermediate_size": 32}
    return {
        "name": "features",
        "encoder": {"name": "fused", "args": {"encoders": parts}, "policy": "freeze"},
        "connector": "linear",
        "backbone": {"name": "transformer", "args": {"config": layers | width}},
        "data": {"name": "proxy-vqa", "args": {"train_samples": images}},
        "train": {"epochs": epochs, "batch_size": 16, "log_every": 1},
        "evaluate": {"benchmarks": ["proxy-vqa"], "limit": images // 2, "batch_size": 16},
        "measure": {"what": []},
        "axes": {"connector": ["linear", "ldpv2"]},
        "seeds": [0, 1, 2],
    }


def run(folder: Path, store: str, *words: str) -> float:
    """Seconds of ``ablate sweep``."""
    settings = {
        "ABLATE_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / store}",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", "from ablate.cli.main import main; main()", "sweep"]
    start = time.perf_counter()
    subprocess.run(
        [*command, str(folder / "sweep.yaml"), *words],
        env=os.environ | settings,
        cwd=folder,
        check=True,
    )
    return time.perf_counter() - start


def results(uri: str) -> dict[str, Any]:
    """Everything that the cells measured but their times, and their training curves."""
    client = MlflowClient(uri)
    found: dict[str, Any] = {}
    for cell in Tracker(uri).search(kind="cell"):
        values = cell.data.metrics.items()
        kept: dict[str, Any] = {k: v for k, v in values if not k.startswith(("seconds/", "speed/"))}
        curve = client.get_metric_history(cell.info.run_id, "train/loss")
        found[cell.info.run_name] = kept | {"curve": [point.value for point in curve]}
    return found


def main() -> None:
    """Run both and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="to train on; half to test")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = yaml.safe_dump(sweep(folder, options.images, options.epochs))
        (folder / "sweep.yaml").write_text(text)
        run(folder, "plan.db", "--dry-run")  # renders the images
        without = run(folder, "without.db", "encoder.cache_features=false")
        stored = run(folder, "with.db")
        pair = [results(f"sqlite:///{folder / f'{store}.db'}") for store in ("without", "with")]
    equal = pair[0] == pair[1] and len(pair[0]) == 6
    parser.exit(
        int(not equal),
        f"without {without:.0f} s, with {stored:.0f} s: {without / stored:.2f} times as fast; "
        f"results of {len(pair[0])} cells {'equal to the last bit' if equal else 'DIFFERENT'}\n",
    )


if __name__ == "__main__":
    main()
