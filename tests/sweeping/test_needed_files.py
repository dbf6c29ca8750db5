"""`ablate data files`: what sweeps need, from their parts themselves, and what is there of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from ablate.config.shipped import shipped_sweeps
from ablate.data.tokenizer import train_tokenizer
from ablate.errors import DataError
from ablate.sweeping.plan import plan_sweep
from ablate.sweeping.sample_checks import prepare_data
from tests.data.benchmarks.test_official_benchmarks import gqa
from tests.data.support import encoded
from tests.data.test_llava import record, source
from tests.support import BASE, SWEEPS, ablate, write

HUB = "models--state-spaces--mamba-130m"
TABLES = sorted((SWEEPS / "ml_mamba").glob("table[!3].yaml"))

OWN = """
from ablate.components.connectors.linear import LinearConnector
from ablate.components.needed_files import NeededFile
from pathlib import Path

class Own(LinearConnector):
    @classmethod
    def needed_files(cls, args):
        return [NeededFile("codebook", Path("book.bin"), "my site", "3 kB")]
"""


@pytest.fixture
def hub(house: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty; and an empty cache of ours."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(house / "hub"))
    monkeypatch.setenv("ABLATE_CACHE", str(house / "own"))
    return house / "hub"


def files(capsys: pytest.CaptureFixture, *sweeps: object) -> tuple[int, pd.DataFrame]:
    """The exit code, and the rows by file."""
    code = ablate("data", "files", *map(str, sweeps), "--format", "csv")
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), keep_default_na=False)
    return code, table.set_index("file")


def sweep_of(house: Path) -> Path:
    values = {
        **BASE,
        "name": "mine",
        "seeds": [0],
        "axes": {"connector": ["linear", "mlp"]},
        "backbone": {"name": "mamba-130m", "args": {"weights": "pretrained"}},
        "encoder": {"name": "clip-vit-l", "args": {"weights": "clip.safetensors"}},
        "data": {
            "name": "llava",
            "args": {
                "json_file": "source/data.json",
                "images": "source/images",
                "tokenizer": "tokenizers/neox.json",
            },
        },
        "evaluate": {"benchmarks": ["gqa"]},
    }
    return write(house / "mine.yaml", values)


def put_all(house: Path, hub: Path) -> None:
    source(house / "source", [record(i) for i in range(3)], 3)
    (house / "tokenizers").mkdir()
    train_tokenizer(["a b"], "bpe", 300).save(house / "tokenizers" / "neox.json")
    save_file({"w": torch.zeros(4)}, house / "clip.safetensors")
    (hub / HUB / "refs").mkdir(parents=True)
    (hub / HUB / "refs" / "main").write_text("abc")
    (hub / HUB / "snapshots" / "abc").mkdir(parents=True)
    torch.save({"w": torch.zeros(4)}, hub / HUB / "snapshots" / "abc" / "pytorch_model.bin")
    official = house / "own" / "benchmarks" / "gqa"
    official.mkdir(parents=True)
    for image in gqa(official):
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(encoded(1, "jpeg"))


def test_missing_then_there(house: Path, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweep_of(house)
    official = house / "own" / "benchmarks" / "gqa"
    weights = str(hub / HUB)
    code, table = files(capsys, sweep)
    assert code == 1
    assert set(table.index) == {
        weights,
        "clip.safetensors",
        "source/data.json",
        "source/images",
        "tokenizers/neox.json",
        str(official / "testdev_balanced_questions.json"),
        str(official / "images"),
    }
    assert set(table["now"]) == {"missing"}
    assert set(table["sweeps"]) == {"mine"}
    assert table.loc[weights, "from"] == "huggingface.co/state-spaces/mamba-130m"
    assert table.loc["tokenizers/neox.json", "from"] == (
        "ablate data tokenizer EleutherAI/gpt-neox-20b --out tokenizers/neox.json"
    )
    assert table.loc["source/data.json", "from"] == ""  # of nobody's known name
    assert table.loc[str(official / "images"), "from"].startswith("images.zip")

    put_all(house, hub)
    code, table = files(capsys, sweep)
    assert code == 0
    assert set(table["now"]) == {"there"}

    assert ablate("data", "files", str(sweep)) == 0
    assert capsys.readouterr().out.endswith("\n\n7 files: 7 there, 0 missing, 0 damaged\n")


def test_what_is_damaged_is_said(
    house: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_all(house, hub)
    official = house / "own" / "benchmarks" / "gqa"
    kept = house / "clip.safetensors"
    kept.write_bytes(kept.read_bytes()[:-1])
    shard = hub / HUB / "snapshots" / "abc" / "pytorch_model.bin"
    shard.write_bytes(shard.read_bytes()[:-30])
    (house / "source" / "images" / "sub" / "1.jpg").unlink()
    (house / "tokenizers" / "neox.json").write_text("{}")
    (official / "testdev_balanced_questions.json").write_text("[")
    code, table = files(capsys, sweep_of(house))
    assert code == 1
    bad = table[table["now"] == "damaged"]["problem"]
    assert set(table.index) - set(bad.index) == {"source/data.json", str(official / "images")}
    assert "truncated or damaged" in bad["clip.safetensors"]
    assert bad[str(hub / HUB)].endswith("is truncated; download or write it again")
    assert bad["source/images"] == "has 2 of 3 images, sub/1.jpg is missing"
    assert "is not a tokenizer.json" in bad["tokenizers/neox.json"]
    assert "is not valid JSON" in bad[str(official / "testdev_balanced_questions.json")]

    shard.unlink()
    (house / "source" / "data.json").write_text("{}")
    _, table = files(capsys, house / "mine.yaml")
    assert table.loc[str(hub / HUB), "problem"].endswith("is a directory without weights")
    assert "must hold a list of records" in table.loc["source/data.json", "problem"]

    (hub / HUB / "refs" / "main").write_text("another")
    _, table = files(capsys, house / "mine.yaml")
    assert table.loc[str(hub / HUB), "problem"] == "was not downloaded to its end"


def test_a_missing_shard_is_damage(
    house: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_all(house, hub)
    snapshot = hub / HUB / "snapshots" / "abc"
    (snapshot / "pytorch_model.bin").rename(snapshot / "part-1.bin")
    index = {"weight_map": {"a": "part-1.bin", "b": "part-2.bin"}}
    (snapshot / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    _, table = files(capsys, sweep_of(house))
    assert "part-2.bin: cannot be read" in table.loc[str(hub / HUB), "problem"]


def test_a_component_of_the_users_own_says_its_files(
    house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (house / "own_connector.py").write_text(OWN)
    monkeypatch.syspath_prepend(house)
    values = {**BASE, "name": "own", "seeds": [0], "axes": {"connector": ["own_connector:Own"]}}
    code, table = files(capsys, write(house / "own.yaml", values))
    assert code == 1
    row = table.loc["book.bin"]
    assert (row["what"], row["from"], row["size"]) == ("codebook", "my site", "3 kB")


def test_a_benchmark_of_a_file(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"mine": {"name": "file", "args": {"file": "asked_*.json", "images": "pictures"}}}
    values = {
        **BASE,
        "name": "asks",
        "seeds": [0],
        "axes": {"connector": ["linear"]},
        "evaluate": {"benchmarks": [asked]},
    }
    sweep = write(house / "asks.yaml", values)
    assert list(files(capsys, sweep)[1]["now"]) == ["missing"]
    for part in "ab":
        rows = [{"question": "Is it?", "answer": "yes", "image": f"{part}.png"}]
        (house / f"asked_{part}.json").write_text(json.dumps(rows))
    (house / "pictures").mkdir()
    (house / "pictures" / "b.png").write_bytes(encoded(1))
    code, table = files(capsys, sweep)
    assert code == 1
    assert list(table.index) == ["asked_a.json", "asked_b.json", "pictures"]
    assert table.loc["pictures", "problem"] == "has 1 of 2 images, a.png is missing"
    (house / "pictures" / "a.png").write_bytes(encoded(1))
    assert files(capsys, sweep)[0] == 0


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_papers_tables_name_their_weights_data_and_benchmarks(
    path: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, table = files(capsys, path)
    kinds = {what.partition(" ")[0] for what in table["what"]}
    assert kinds == {"weights", "tokenizer", "records", "images", "benchmark"}
    assert all(table["from"])


def test_without_a_name_all_sweeps_that_ship(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.stem for path in shipped_sweeps()} >= {"smoke", "table2", "table7", "relations"}
    assert not {path.stem for path in shipped_sweeps()} & {"table3", "lr", "bench_cpu", "tiny"}
    code, table = files(capsys)
    assert code == 1
    users = table.loc[str(hub / "models--state-spaces--mamba2-2.7b"), "sweeps"].split(", ")
    assert users == ["table2", "table4", "table5", "table6", "table7"]


def test_a_missing_tokenizer_comes_with_its_command(house: Path, hub: Path) -> None:
    put_all(house, hub)
    (house / "tokenizers" / "neox.json").unlink()
    config = plan_sweep(sweep_of(house)).cells[0].config
    command = "`ablate data tokenizer EleutherAI/gpt-neox-20b --out tokenizers/neox.json`"
    with pytest.raises(DataError, match=f"neox.json, which is missing, is made by {command}"):
        prepare_data("mine.yaml", config, house / "own")
