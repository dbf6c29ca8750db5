"""A frozen encoder's stored features: the same results as without them, computed once."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import Subset

from ablate.components.encoders import Encoder
from ablate.components.encoders.blind import BlindEncoder
from ablate.components.encoders.fused import FusedEncoder
from ablate.components.encoders.timm_vit import TimmViT
from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.identity import identity
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.data.base import Split
from ablate.data.easy_vqa import EasyVQA
from ablate.data.samples import Sample, Samples
from ablate.errors import CellError, ConfigError
from ablate.models.vlm import build_component
from ablate.sweeping import work as cell
from ablate.sweeping.prepare import prepare
from ablate.tracking.progress import Display
from ablate.training.feature_cache import (
    LIMIT,
    applies,
    folder,
    limit,
    make_features,
    requests,
    sources,
)
from tests.support import BASE, Quiet, ablate, write


class Few(EasyVQA):
    """40 questions about some 20 of easy-VQA's images."""

    def split(self, cache_dir: Path, split: Split) -> Samples[Sample]:
        return Subset(super().split(cache_dir, split), range(0, 200, 5))  # type: ignore[arg-type]


FROZEN = merge(
    expand(BASE, "base"),
    {
        "encoder": {"policy": "freeze"},
        "data": {"name": f"{__name__}:Few"},
        "train": {"max_steps": 20, "validate_every": 10, "validate_samples": 10},
        "evaluate": {"batch_size": 5},
        "measure": {"what": []},
    },
)
VIT = {"name": "timm", "args": FROZEN["encoder"]["args"]}
BLIND = {"name": "blind", "args": {"embed_dim": 24}}
FUSED = {"name": "fused", "args": {"encoders": [VIT, VIT]}}


def config(**sections: Any) -> RunConfig:
    return compose([Layer("test", merge(FROZEN, expand(sections, "test")))])


class Told(Quiet):
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.fractions: list[float] = []

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        kept = {k: v for k, v in values.items() if not k.startswith("seconds/")}
        self.values.append((step, kept))

    def progress(self, phase: str, fraction: float) -> None:
        self.fractions.append(fraction)


@pytest.fixture(autouse=True)
def _no_limit_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT, raising=False)


def results(chosen: RunConfig, cache: Path, out: Path) -> tuple[list[Any], pd.DataFrame]:
    """All that a cell reports, and its predictions."""
    torch.set_num_threads(1)
    reporter = Told()
    out.mkdir()
    cell.train_and_evaluate(chosen, cache, out, reporter)
    return reporter.values, pd.read_parquet(out / "easy-vqa.parquet")


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("stored", ["exact", "bfloat16"])
@pytest.mark.parametrize("encoder", [VIT, BLIND, FUSED], ids=["vit", "blind", "fused"])
def test_the_same_bits_as_without(
    encoder: dict[str, Any],
    stored: str,
    precision: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = config(encoder=encoder | {"feature_precision": stored}, train={"precision": precision})
    data_set(chosen).prepare(cache)
    plain = results(chosen, cache, tmp_path / "plain")
    cell.store_features(chosen, cache, Told())

    def refuse(self: Encoder, pixels: Any) -> Tensor:
        raise AssertionError("an image was encoded whose features are stored")

    for kind in (TimmViT, BlindEncoder, FusedEncoder):
        monkeypatch.setattr(kind, "forward", refuse)
    reported, predictions = results(chosen, cache, tmp_path / "stored")
    assert reported == plain[0]
    assert any("validation/loss" in values for _, values in reported)
    pd.testing.assert_frame_equal(predictions, plain[1], check_exact=True)


class Counting(Encoder):
    """An encoder that counts the images it is given."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__()
        self.inner = inner
        self.images = 0

    image_size = property(lambda self: self.inner.image_size)
    grid = property(lambda self: self.inner.grid)
    embed_dim = property(lambda self: self.inner.embed_dim)
    transform = property(lambda self: self.inner.transform)

    def forward(self, pixels: Any) -> Tensor:
        self.images += len(pixels)
        return self.inner(pixels)


def counting(chosen: RunConfig) -> Counting:
    return Counting(build_component(chosen, "encoder"))


def distinct_images(chosen: RunConfig, cache: Path) -> int:
    """Images, by their pixels, of each kind of samples."""
    found = sources(chosen, data_set(chosen), cache).values()
    return sum(len({np.asarray(s[i].image).tobytes() for i in range(len(s))}) for s in found)


def test_each_image_once_by_two_processes_at_a_time(tmp_path: Path) -> None:
    chosen = config()
    dataset = data_set(chosen)
    dataset.prepare(tmp_path)
    encoders, reporters = [counting(chosen) for _ in range(2)], [Told() for _ in range(2)]
    threads = [
        threading.Thread(target=make_features, args=(chosen, encoder, dataset, tmp_path, reporter))
        for encoder, reporter in zip(encoders, reporters, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    images = distinct_images(chosen, tmp_path)
    assert sum(encoder.images for encoder in encoders) == images
    assert requests([chosen], tmp_path, data_set)[0].images == images

    again, reporter = counting(chosen), Told()
    make_features(chosen, again, dataset, tmp_path, reporter)
    assert again.images == 0
    assert reporter.values == []


def test_a_killed_attempt_leaves_nothing(tmp_path: Path) -> None:
    chosen = config()
    dataset, encoder = data_set(chosen), counting(chosen)
    dataset.prepare(tmp_path)

    class Killed(Told):
        def progress(self, phase: str, fraction: float) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_features(chosen, encoder, dataset, tmp_path, Killed())
    place = folder(chosen, encoder, tmp_path)
    assert [path for path in place.iterdir() if not path.name.startswith(".")] == []
    encoder.images = 0
    make_features(chosen, encoder, dataset, tmp_path, Told())
    assert encoder.images == distinct_images(chosen, tmp_path)
    assert not list(place.glob("*.partial"))


def test_what_the_place_depends_on(cache: Path) -> None:
    first = config()
    encoder = build_component(first, "encoder")
    place = folder(first, encoder, cache)
    assert folder(first, build_component(first, "encoder"), cache) == place
    shorter = config(train={"max_steps": 1}, connector={"name": "mlp"})
    assert folder(shorter, build_component(shorter, "encoder"), cache) == place
    seeded = compose([Layer("test", FROZEN | {"seed": 1})])
    others = [
        folder(seeded, build_component(seeded, "encoder"), cache),
        folder(config(encoder={"feature_precision": "bfloat16"}), encoder, cache),
        folder(config(train={"precision": "bf16"}), encoder, cache),
        folder(config(encoder={"args": VIT["args"] | {"resize": "crop"}}), encoder, cache),
    ]
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += 1
    others.append(folder(first, encoder, cache))
    assert place not in others
    assert len(set(others)) == len(others)


def test_what_the_identity_depends_on() -> None:
    assert identity(config(encoder={"cache_features": False})) == identity(config())
    assert identity(config(encoder={"feature_precision": "exact"})) == identity(config())
    assert identity(config(encoder={"feature_precision": "bfloat16"})) != identity(config())


def test_only_a_frozen_encoders_features_are_rounded() -> None:
    with pytest.raises(ConfigError, match=r"feature_precision.*set encoder.policy: freeze"):
        config(encoder={"feature_precision": "bfloat16", "policy": "train"})


def test_where_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert applies(config())
    assert not applies(config(encoder={"policy": "train"}))
    assert not applies(config(encoder={"policy": "lora"}))
    assert not applies(config(encoder={"cache_features": False}))
    monkeypatch.setenv(LIMIT, "0")
    assert not applies(config())
    for wrong in ("-1", "much", "nan"):
        monkeypatch.setenv(LIMIT, wrong)
        with pytest.raises(ConfigError, match=f"{LIMIT}: is a number of GiB.*{wrong!r}"):
            limit()


def test_short_runs_store_nothing_until_they_are_many(cache: Path) -> None:
    short = config(train={"max_steps": 1, "validate_every": None}, evaluate={"limit": 1})
    data_set(short).prepare(cache)
    (request,) = requests([short], cache, data_set)
    assert request.seen == 5  # a batch of 4 and a test item, of some 20 images
    assert not request.is_worthwhile
    (request,) = requests([short] * 10, cache, data_set)
    assert request.seen == 50
    assert request.is_worthwhile
    # Random weights are another encoder with another seed, those of stage 0 are not.
    seeds = [compose([Layer("test", FROZEN | {"seed": s})]) for s in range(2)]
    assert len(requests(seeds, cache, data_set)) == 2
    stage = merge(FROZEN, {"encoder": {"pretrain": {"steps": 1}}})
    seeds = [compose([Layer("test", stage | {"seed": s})]) for s in range(2)]
    assert len(requests(seeds, cache, data_set)) == 1


def test_room_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config()
    dataset, encoder = data_set(chosen), counting(chosen)
    dataset.prepare(tmp_path)
    monkeypatch.setenv(LIMIT, "0.0001")
    with pytest.raises(CellError, match=f"more than the 0.0001 GiB allowed; raise {LIMIT}"):
        make_features(chosen, encoder, dataset, tmp_path, Told())
    assert encoder.images == 0
    assert not list(tmp_path.glob("features/*/*"))


def test_a_sweep_stores_them(
    house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(house / "cache"))
    write(house / "base.yaml", FROZEN)
    write(house / "s.yaml", {"base": "base.yaml", "axes": {"connector": ["linear", "mlp"]}})
    assert ablate("sweep", "s.yaml", "--dry-run") == 0
    images = distinct_images(config(), house / "cache")
    line = f"features of frozen encoder timm: {images} images, 0.00024 GiB, computed once"
    assert line in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setenv(LIMIT, "0.0001")
        assert ablate("sweep", "s.yaml", "--dry-run", "seeds=[0,1]") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "for each of at most 2 encoders" in printed
    assert "too large to be stored (limit of all: 0.0001 GiB" in printed

    assert ablate("sweep", "s.yaml") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"encoder timm 0: {images} images, 0.00024 GiB" in printed
    assert "2 cells run" in printed
    assert len(list(house.glob("cache/features/*/*/features.npy"))) == 3


class Broken(BlindEncoder):
    """An encoder that takes no images."""

    def forward(self, pixels: Any) -> Tensor:
        raise ValueError("it is broken")


def test_a_sweep_says_why_it_stores_none(cache: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    broken = config(encoder={"name": f"{__name__}:Broken", "args": {}})
    prepare([broken], cache, Display(console))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "failed: ValueError: it is broken; its cells encode their images" in printed
