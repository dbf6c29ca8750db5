"""`ablate data convert` and `ablate data check`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

import ablate.data.convert
from ablate.cli.data_commands import Template
from ablate.cli.main import main
from ablate.data import DATASETS
from ablate.data.templates import TEMPLATES
from tests.data.benchmarks.test_official_benchmarks import gqa
from tests.data.support import encoded
from tests.data.test_llava import record, source


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["data", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def mix(tmp_path: Path) -> list[str]:
    """Twelve records on lines of their own, of which 3 is text alone and 5 and 8 are bad."""
    text = {k: v for k, v in record(3).items() if k != "image"}
    text["conversations"] = text["conversations"][2:]
    records = [record(i) for i in range(12)]
    records[3], records[5], records[8] = text, record(99), record(8, conversations=[])
    paths = source(tmp_path / "source", records, 12)
    lines = ",\n".join(json.dumps(r) for r in records)
    Path(paths["json_file"]).write_text(f"[\n{lines}\n]\n")
    return [paths["json_file"], "--images", paths["images"]]


def test_convert_then_check(
    mix: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate.data.convert, "PER_SHARD", 4)
    out = tmp_path / "out"
    options = ["--out", out, "--vocab-size", 300, "--validation-every", 6, "--workers", 2]
    assert run("convert", *mix, *options) == 0
    first, *problems = capsys.readouterr().out.splitlines()
    problems, texts = problems[:3], problems[3:]
    assert first.startswith(f"{out}: 10 samples (9 train, 1 validation) in 4 shards, ")
    assert problems == [
        f"left out: 2 bad records, see {out / 'problems.jsonl'}",
        "  line 7: record 5 ('r99') image 'sub/99.jpg' cannot be read: No such file or directory",
        "  line 10: record 8 ('r8') has no conversations, and no question and answer",
    ]
    assert texts[0].startswith("as llava-1.5 writes them, train: 9 conversations, tokens of text: ")
    assert texts[1] == "images: 8 of 8 x 8"
    # 300 tokens are too few for the template's words.
    assert texts[2].startswith("warning: the tokenizer splits the chat template's 34 words into ")
    samples = DATASETS.get("shards")(folder=str(out)).split(tmp_path, "train")
    assert [samples[i].image is None for i in range(4)] == [False, False, False, True]

    written = [(p, p.stat().st_mtime_ns) for p in sorted(out.rglob("*.*"))]
    assert run("convert", *mix, *options) == 0  # done already: the same said again
    assert capsys.readouterr().out.splitlines()[1:] == [
        "10 of them were converted before",
        *problems,
        *texts,
    ]
    assert written == [(p, p.stat().st_mtime_ns) for p in sorted(out.rglob("*.*"))]

    assert run("check", out) == 0
    report = capsys.readouterr().out
    assert f"{out / 'train'}: 9 samples in 3 shards" in report
    assert f"{out / 'validation'}: 1 samples in 1 shards" in report
    (out / "train" / "shard-000001.tar").unlink()
    (out / "validation" / "index.json").unlink()
    assert run("check", out) == 1
    report = capsys.readouterr().out
    assert f"! {out / 'train' / 'shard-000001.tar'} cannot be read: No such file" in report
    assert f"! no shards at {out / 'validation'}" in report


def test_text_only_rows_can_be_left_out(
    mix: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--out", tmp_path / "out", "--vocab-size", 300, "--text-only", "skip"]
    assert run("convert", *mix, *options) == 0
    report = capsys.readouterr().out
    assert "9 samples (9 train, 0 validation)" in report
    assert "left out, as asked: 1 conversations without an image" in report


def test_bad_records_can_be_refused(
    mix: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "new" / "out"
    assert run("convert", *mix, "--out", out, "--on-error", "refuse") == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert f"ablate: data convert: {mix[0]}, line 7: record 5 ('r99')" in error
    assert [path.name for path in out.parent.iterdir() if path.is_dir()] == []


def test_another_folder_is_not_written_over(
    mix: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert run("convert", *mix, "--out", tmp_path / "mine") == 2
    assert f"{tmp_path / 'mine'} exists and is not this data" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_check_of_benchmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path))
    assert run("check") == 1
    report = capsys.readouterr().out
    for name in ("gqa", "pope", "textvqa", "vizwiz", "vqav2", "vsr"):
        assert f"{name}: not whole, looked for in {tmp_path / 'benchmarks' / name}" in report
    assert "! coco_pope_random.json: missing; it is in output/coco of POPE's repo" in report

    root = tmp_path / "benchmarks" / "gqa"
    root.mkdir(parents=True)
    (image,) = gqa(root)
    assert run("check", "gqa") == 1
    assert "! images: 0 of 1 images, n1.jpg is missing" in capsys.readouterr().out
    image.parent.mkdir()
    image.write_bytes(encoded(1, "jpeg"))
    assert run("check", "gqa") == 0
    assert "1 questions" in capsys.readouterr().out

    assert run("check", "gqb") == 2
    assert "gqb: neither an official benchmark nor a folder; did you mean 'gqa'" in (
        capsys.readouterr().err
    )


def test_templates_are_those_that_there_are() -> None:
    assert get_args(Template) == tuple(TEMPLATES)
