"""`ablate data tokenizer`: a tokenizer.json of what a model's folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablate.data.made_tokenizer import make_tokenizer
from ablate.data.tokenizer import Tokenizer
from tests.library_tokenizers import MAKERS, sentencepiece_model
from tests.support import ablate

TEXT = "A cat, twice:  a cat."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with the tokenizer of GPT-NeoX."""
    made, _ = MAKERS["gpt-neox"](tmp_path)
    made.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["gpt-neox", "phi", "word"])
def test_gives_the_ids_of_the_librarys(name: str, tmp_path: Path) -> None:
    made, theirs = MAKERS[name](tmp_path)
    made.save_pretrained(tmp_path / "model")
    out = tmp_path / "tokenizers" / "mine.json"
    ours = make_tokenizer(str(tmp_path / "model"), out)
    assert ours.encode(TEXT) == theirs.encode(TEXT, add_special_tokens=False)
    assert Tokenizer.load(out).vocabulary == theirs.get_vocab()
    assert [path.name for path in out.parent.iterdir()] == ["mine.json"]


def test_asentencepiece_model_model_is_converted(tmp_path: Path) -> None:
    """What MobileLLaMA and Vicuna come with."""
    folder = sentencepiece_model(tmp_path)
    assert not (folder / "tokenizer.json").exists()
    ours = make_tokenizer(str(folder), tmp_path / "llama.json")
    _, theirs = MAKERS["llama-legacy"](tmp_path)
    assert ours.encode(TEXT) == theirs.encode(TEXT, add_special_tokens=False)


def test_the_chat_template_goes_beside_a_file_of_the_usual_name(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    out = tmp_path / "out" / "tokenizer.json"
    made = make_tokenizer(str(folder), out)
    assert made.render([{"role": "user", "content": "Hm"}], prompt=False) == "Hm!"


def test_an_end_that_would_be_lost_is_not(folder: Path, tmp_path: Path) -> None:
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": "<|padding|>"}))
    with pytest.raises(ValueError, match=r"is '<\|padding\|>' by its .*FOLDER/tokenizer.json"):
        make_tokenizer(str(folder), tmp_path / "mine.json")
    assert not (tmp_path / "mine.json").exists()
    kept = make_tokenizer(str(folder), tmp_path / "kept" / "tokenizer.json")
    assert kept.eos_token == "<|padding|>"


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.json"
    command = ["data", "tokenizer", str(folder), "--out", str(out)]
    assert ablate(*command) == 0
    size = Tokenizer.load(out).vocab_size
    assert capsys.readouterr().out == (
        f"{out}: {size} tokens, of {folder}; answers end with <|endoftext|>\n"
    )
    before = out.read_bytes()
    assert ablate(*command) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(name: str) -> None:
        asked.append(name)
        raise OSError("no\nnetwork")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    for model, of in (("mamba2-2.7b", "EleutherAI/gpt-neox-20b"), ("phi-2", "microsoft/phi-2")):
        assert ablate("data", "tokenizer", model, "--out", str(tmp_path / "x.json")) == 2
        assert f"no tokenizer of {of}: no network" in capsys.readouterr().err
    monkeypatch.setattr("ablate.data.made_tokenizer.find_spec", lambda name: None)
    assert ablate("data", "tokenizer", "phi-2", "--out", str(tmp_path / "x.json")) == 2
    assert "`pip install sentencepiece`" in capsys.readouterr().err
    del asked[-1]
    assert asked == ["EleutherAI/gpt-neox-20b", "microsoft/phi-2"]
    assert ablate("data", "tokenizer", "mamba2", "--out", str(tmp_path / "x.json")) == 2
    assert "has no published weights" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
