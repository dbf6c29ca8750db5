"""``~`` is the user's folder wherever a path may be given: words, files, variables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from transformers import AutoConfig

from ablate.analysis.connect import home_expanded, tracking_uri
from ablate.cli.common import cache_folder
from ablate.components.backbones import BACKBONES
from ablate.components.checkpoints.locate import locate
from ablate.components.encoders import TimmViT
from ablate.components.encoders.timm_vit import TINY_ARGS, TINY_MODEL
from ablate.config.compose import Layer, compose, expand
from ablate.data import DATASETS
from ablate.evaluation.chat import find_model, read_image
from ablate.models.saved import components_of, save, start_from
from ablate.models.vlm import assemble
from ablate.sweeping.study_store import storage_url
from tests.data.support import encoded
from tests.data.test_llava import record, source
from tests.support import BASE, ablate, write

SMALL: dict[str, Any] = {
    "model": "tiny",
    "model_args": {"embed_dim": 12, "depth": 2, "num_heads": 2},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder, apart from the working folder, which is empty and stays so."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert not (tmp_path / "work" / "~").exists()


def test_variables(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_CACHE", "~/cache")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~/mlflow.db")
    monkeypatch.setenv("ABLATE_STUDIES", "sqlite:///~/optuna.db")
    assert cache_folder() == home / "cache"
    assert tracking_uri() == f"sqlite:///{home / 'mlflow.db'}"
    assert storage_url() == f"sqlite:///{home / 'optuna.db'}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/runs", "HOME/runs"),
        ("file:~/runs", "file:HOME/runs"),
        ("file://~/runs", "file://HOME/runs"),
        ("sqlite:///a~b.db", "sqlite:///a~b.db"),
        ("https://host/~user", "https://host/~user"),
        ("postgresql://~:password@host/db", "postgresql://~:password@host/db"),
    ],
)
def test_stores(given: str, expected: str, home: Path) -> None:
    assert home_expanded(given) == expected.replace("HOME", str(home))


def weights_of_an_encoder(home: Path) -> Callable[[], object]:
    args = {**TINY_ARGS, **SMALL["model_args"], "img_size": 64, "num_classes": 0}
    torch.save(timm.create_model(TINY_MODEL, **args).state_dict(), home / "w.pth")
    return lambda: TimmViT(**SMALL, weights="~/w.pth")


def folder_of_an_encoder(home: Path) -> Callable[[], object]:
    architecture = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"num_classes": 0}}
    (home / "vit").mkdir()
    (home / "vit" / "config.json").write_text(json.dumps(architecture))
    return lambda: TimmViT(model="local-dir:~/vit", image_size=32)


def weights_of_a_backbone(home: Path) -> Callable[[], object]:
    (home / "weights").mkdir()
    return lambda: locate("~/weights", "owner/name") == home / "weights" or pytest.fail("elsewhere")


def folder_of_a_transformer(home: Path) -> Callable[[], object]:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "vocab_size": 9}
    AutoConfig.for_model("llama", **sizes, **heads).save_pretrained(home / "llama")

    def build() -> None:
        with torch.device("meta"):
            BACKBONES.get("transformer")(9, path="~/llama")

    return build


def tokenizer_and_sources(home: Path) -> Callable[[], object]:
    source(home / "source", [record(0)], 1)
    return lambda: DATASETS.get("llava")(
        json_file="~/source/data.json", images="~/source/images", vocab_size=300
    ).prepare(home / "cache")


def image_of_a_chat(home: Path) -> Callable[[], object]:
    (home / "x.png").write_bytes(encoded(1))
    return lambda: read_image(Path("~/x.png"))


def model_of_a_chat(home: Path) -> Callable[[], object]:
    (home / "model").mkdir()
    return lambda: find_model("~/model") == home / "model" or pytest.fail("elsewhere")


def beginning(home: Path) -> Callable[[], object]:
    config = compose([Layer("test", expand({**BASE, "start_from": "~/model"}, "test"))])
    model = assemble(config, 9)
    save(model, config, home / "model")
    assert config.start_from is not None
    return lambda: start_from(components_of(model), config, Path(config.start_from or ""))


PATHS = (
    weights_of_an_encoder,
    folder_of_an_encoder,
    weights_of_a_backbone,
    folder_of_a_transformer,
    tokenizer_and_sources,
    image_of_a_chat,
    model_of_a_chat,
    beginning,
)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_arguments(path: Callable[[Path], Callable[[], object]], home: Path) -> None:
    path(home)()


def test_words_and_files(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(home / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write(home / "base.yaml", BASE)
    write(Path("s.yaml"), {"base": "~/base.yaml", "data": {"name": "shards"}})
    words = ["data.args.folder=~/none", "encoder.args.weights=~/none.pth", "--dry-run"]
    assert ablate("sweep", "s.yaml", *words) == 2
    assert f"weights '{home}/none.pth': no such file" in capsys.readouterr().err
    rows = [{"id": "1", "prediction": "yes", "answer": "yes", "answers": ["yes"], "category": ""}]
    (home / "easy-vqa.json").write_text(json.dumps(rows))
    assert ablate("score", "~/easy-vqa.json") == 0
    bench = {"base": "~/base.yaml", "models": {"a": {}}}
    write(Path("b.yaml"), bench)
    assert ablate("bench", "b.yaml", "--json", "~/results/x.txt") == 2
    assert f"is the path of a .json file, not {home}" in capsys.readouterr().err
