"""`ablate init`: from somebody's own data to a sweep that can run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ablate.config.registries import data_set, run_benchmark
from ablate.sweeping.own_data import Counter, OwnData, quoted, sweep_file
from ablate.sweeping.plan import plan_sweep
from ablate.sweeping.prepare import prepare_benchmarks
from tests.data.support import encoded
from tests.data.test_llava import record, source
from tests.support import ablate


@pytest.fixture
def records(house: Path) -> Path:
    """Twenty pictures, of which one is missing and one broken, with two questions each."""
    (house / "given").mkdir()
    source(house / "given", [record(i) for i in range(20)], 20)
    images = house / "given" / "images" / "sub"
    (images / "3.jpg").unlink()
    (images / "7.jpg").write_bytes(encoded(7, "jpeg")[:200])
    return house / "given" / "data.json"


def test_three_connectors_and_the_blind_one(
    records: Path, house: Path, capsys: pytest.CaptureFixture
) -> None:
    images = str(records.parent / "images")
    assert ablate("init", "--data", str(records), "--images", images) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("data/data: 18 samples (14 train, 4 validation) in 2 shards, ")
    assert said[1].startswith("left out: 2 bad records, see data/data/problems.jsonl")
    assert "sub/3.jpg' cannot be read" in said[2]
    assert "sub/7.jpg' is broken" in said[3]
    assert said[4].startswith("14 conversations, tokens of text: median ")
    assert said[5] == "images: 14 of 8 x 8"
    assert said[6] == (
        "held out: 8 questions with 5 different answers; always 'Red.' would be right for 50%; "
        "scored by: exact"
    )
    assert [line.strip() for line in said[-2:]] == [
        "ablate sweep data/data.yaml",
        "ablate report data",
    ]

    plan = plan_sweep(Path("data/data.yaml"))
    combinations = [cell.combination for cell in plan.combinations.values()]
    assert combinations == ["mlp", "msc-basic", "msc-advanced", "blind"]
    assert len(plan.cells) == 12
    config = plan.cells[0].config
    (longest,) = [int(word) for word in said[4].rsplit(" ", 1)[1:]]
    assert config.data.max_length == longest
    cache = house / "cache"
    prepare_benchmarks([config], cache)
    asked = run_benchmark(config, "held-out").samples(cache, "test")
    trained = data_set(config).split(cache, "train")
    held_out = {asked[i].id.split("-r")[1].split("#")[0] for i in range(len(asked))}
    assert held_out == {"4", "9", "14", "19"}
    assert not held_out & {trained[i].id.split("-r")[1] for i in range(len(trained))}

    assert ablate("init", "--data", str(records), "--images", images) == 0  # the same again
    path = house / "data" / "data.yaml"
    path.write_text("# mine\n" + path.read_text())
    assert ablate("init", "--data", str(records), "--images", images) == 2
    assert "data/data.yaml: is there and is not what would be written" in capsys.readouterr().err
    assert path.read_text().startswith("# mine\n")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_folder_with_rows(name: str, house: Path, capsys: pytest.CaptureFixture) -> None:
    folder = house / 'my "${own}" data'
    folder.mkdir()
    rows = [
        {"image": f"{n}.png", "question": f"how many, {k}?", "answer": str(k), "category": "count"}
        for n in range(10)
        for k in range(3)
    ]
    for n in range(10):
        (folder / f"{n}.png").write_bytes(encoded(n))
    with (folder / name).open("w", newline="") as file:
        if name.endswith("csv"):
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        else:
            file.write("\n".join(map(json.dumps, rows)))
    assert ablate("init", "--data", str(folder)) == 0  # named like the file, not like the folder
    out = 'the "own" result'
    assert ablate("init", "--data", str(folder), "--out", out) == 0
    said = capsys.readouterr().out
    assert "30 samples (24 train, 6 validation)" in said
    assert f"  ablate sweep '{out}/{out}.yaml'" in said
    plan = plan_sweep(house / out / f"{out}.yaml")
    config = plan.cells[0].config
    assert plan.name == out
    assert config.data.args["folder"] == f"{out}/data"
    sample = data_set(config).split(house, "train")[0]
    assert (sample.category, sample.turns[0].answer) == ("count", "0")


def test_what_cannot_be_begun_with(house: Path, capsys: pytest.CaptureFixture) -> None:
    def refused(*words: str) -> str:
        assert ablate("init", "--data", *words) == 2
        return capsys.readouterr().err.strip()

    assert refused("nothing.json") == (
        "ablate: init: nothing.json: no file or folder at nothing.json"
    )
    folder = house / "folder"
    folder.mkdir()
    assert "folder must hold one file of records (.json, .jsonl, .csv, .tsv), and has: none" in (
        refused("folder")
    )
    source(house / "one", [record(0)], 1)
    (house / "one" / "data.csv").write_text("image,question,answer\n")
    assert "and has: data.csv, data.json" in refused("one")
    one = refused("one/data.json", "--images", "one/images")
    assert one.endswith("no conversation is held out; give records about more images")
    assert "data.csv holds no record" in refused("one/data.csv", "--out", "else")
    assert "'a${b}/a${b}' has ${ in it, a reference in a sweep file; give another --out" in (
        refused("one/data.csv", "--out", "a${b}")
    )


def found(lengths: list[int], answers: dict[str, int]) -> OwnData:
    import numpy as np

    from ablate.data.convert import Summary
    from ablate.data.survey import Survey

    summary = Summary({"train": len(lengths)}, 0, 1, 1, 0, [])
    return OwnData(summary, Survey(np.array(lengths), {}), Counter(answers), 9, 1.0)


def test_long_conversations_take_fewer_steps_and_lose_their_outliers(tmp_path: Path) -> None:
    def planned(data: OwnData) -> dict[str, object]:
        path = tmp_path / "a.yaml"
        path.write_text(sweep_file("a", "f", data))
        cell = plan_sweep(path).cells[0].config
        defined = cell.evaluate.definitions["held-out"]
        return {
            "length": (cell.data.max_length, cell.data.too_long),
            "steps": cell.train.max_steps,
            "batch": cell.train.batch_size,
            "metric": (defined.args["metric"], defined.args["max_new_tokens"]),
        }

    short = planned(found([30] * 999 + [50], {"yes": 3, "no": 1}))
    assert short == {
        "length": (50, "refuse"), "steps": 250, "batch": 32, "metric": ("exact", 10)
    }  # fmt: skip
    long = planned(found([200] * 1999 + [900], {"a man on a horse": 3, "no": 1}))
    assert long == {
        "length": ("auto", "truncate"), "steps": 120, "batch": 16, "metric": ("f1", 10)
    }  # fmt: skip


@pytest.mark.parametrize("name", ["yes", "1e3", 'a "b": #c', "日本", "\\"])
def test_any_name_is_text(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(sweep_file(name, f"{name}/data", found([3], {"a": 1})), "utf-8")
    plan = plan_sweep(path)
    assert plan.name == name
    assert plan.cells[0].config.data.args["folder"] == f"{name}/data"
    assert quoted("a") == '"a"'
