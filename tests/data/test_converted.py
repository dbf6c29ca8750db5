"""A folder of converted data: used without its sources, and only if it is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ablate.data import DATASETS
from ablate.data.convert import Conversion, ConvertOptions
from ablate.data.shards import ShardError
from tests.data.test_llava import record, source


def test_converted_folder_needs_no_sources(tmp_path: Path) -> None:
    paths = source(tmp_path / "source", [record(i) for i in range(6)], 6)
    options = ConvertOptions(vocab_size=300, validation_every=3)
    conversion = Conversion(Path(paths["json_file"]), Path(paths["images"]), options)
    conversion.run(tmp_path / "out")
    shutil.rmtree(tmp_path / "source")
    shards = DATASETS.get("shards")(folder=str(tmp_path / "out"))
    shards.prepare(tmp_path / "cache")
    samples = shards.split(tmp_path / "cache", "train")
    assert [samples[i].id for i in range(len(samples))] == [f"{i:07d}-r{i}" for i in (0, 1, 3, 4)]
    assert shards.tokenizer(tmp_path / "cache").vocab_size > 256
    before = shards.fingerprint(tmp_path / "cache")
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = DATASETS.get("shards")(folder=str(tmp_path / "moved"))
    assert moved.fingerprint(tmp_path / "cache") == before
    with pytest.raises(ShardError, match=r"no shards at .*out/train"):
        shards.prepare(tmp_path / "cache")
