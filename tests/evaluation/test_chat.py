"""``ablate chat``: the model found, its answers those of the evaluation, text whole as it comes."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from ablate.cli.main import main
from ablate.config.compose import Layer, compose, expand
from ablate.data.benchmarks.base import BENCHMARKS
from ablate.data.samples import Turn
from ablate.data.text import encode_conversation
from ablate.data.tokenizer import TOKENIZER, Tokenizer, train_tokenizer
from ablate.errors import ConfigError
from ablate.evaluation.chat import Chat, TextStream, find_model, open_chat
from ablate.models.generation import GREEDY, Sampling
from ablate.models.saved import save
from ablate.models.vlm import build_model
from ablate.tracking.store import Tracker
from tests.support import BASE, write

TEXTS = ["what colour is the circle ?", "it's häßlich, 你好 🙂 red", "blue"]
SWEEP = {
    "base": "base.yaml",
    "train": {"max_steps": 20, "batch_size": 16, "lr": 3.0e-3, "save": True},
    "measure.what": [],
}


def chat(*words: str) -> int:
    """The exit code of ``ablate chat WORDS``."""
    with pytest.raises(SystemExit) as ended:
        main(["chat", *words])
    return int(ended.value.code or 0)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.effect_noise((80, 50), 90).save(path)
    return path


@pytest.fixture
def saved(house: Path) -> Path:
    """The folder of a saved model that says much, and different things to different questions."""
    tokenizer = train_tokenizer(TEXTS, "word", 40)
    run = compose([Layer("test", expand(BASE, "base"))])
    model = build_model(run, tokenizer.vocab_size)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        # answers are long: a logit of 0 is never the highest
        model.backbone.get_parameter("lm_head.weight")[tokenizer.eos_id] = 0
    save(model, run, house / "saved")
    tokenizer.save(house / "saved" / TOKENIZER)
    return house / "saved"


def test_a_run_answers_as_it_was_evaluated(
    house: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(house / "s.yaml", SWEEP)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "s.yaml"])
    assert not ended.value.code
    run = Tracker().search(kind="cell")[0]
    name, folder = run.data.tags["ablate.name"], find_model(run.info.run_id)
    predictions = Tracker().client.download_artifacts(run.info.run_id, "predictions")
    records = pd.read_parquet(Path(predictions) / "easy-vqa.parquet")
    assert (records["prediction"].str.len() > 0).any()
    samples = BENCHMARKS.get("easy-vqa")().samples(cache, "test", 12)
    capsys.readouterr()
    for index, model in enumerate([name, run.info.run_id, str(folder)]):
        sample, record = samples[index], records.iloc[index]
        assert record["id"] == sample.id
        assert sample.image is not None
        sample.image.save(house / "item.png")
        words = ["--image", "item.png", "--question", record["question"]]
        assert chat("--model", model, *words) == 0
        assert capsys.readouterr().out == record["prediction"] + "\n"


def test_questions_are_asked_at_the_terminal_until_an_empty_line(
    saved: Path,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for typed in ("what is red ?\nwhat is blue ?\n", "what is red ?\nwhat is blue ?\n\nred\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        words = ["--model", str(saved), "--image", str(picture), "--max-new-tokens", "9"]
        assert chat(*words) == 0
        conversation = open_chat(saved, [Image.open(picture)], 9, GREEDY)
        parts: list[str] = []
        answers = [conversation.ask(f"what is {c} ?", parts.append) for c in ("red", "blue")]
        assert "".join(parts) == "".join(answers)
        assert all(answers)
        assert capsys.readouterr().out == f"> {answers[0]}\n> {answers[1]}\n> "


def test_a_turn_is_read_after_all_before_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the model has learnt to: the ids of the prompts are those of a training conversation."""
    conversation = open_chat(saved, [Image.effect_noise((64, 64), 90)], 12, GREEDY)
    read: list[torch.Tensor] = []
    prompt = conversation.model.prompt

    def spy(pixels: Any, input_ids: torch.Tensor, *rest: Any) -> Any:
        assert pixels.shape == (1, 3, 64, 64)
        read.append(input_ids[0])
        return prompt(pixels, input_ids, *rest)

    monkeypatch.setattr(conversation.model, "prompt", spy)
    questions = ["what is red ?", "what is blue ?", "it's ?"]
    turns = [Turn(q, conversation.ask(q, lambda piece: None)) for q in questions]
    assert conversation.turns == turns
    tokenizer, template = conversation.tokenizer, conversation.template
    ids, labels = encode_conversation(turns, template, tokenizer, 10**6)
    starts = [i for i in range(1, len(ids)) if labels[i] >= 0 > labels[i - 1]]
    assert [row.tolist() for row in read] == [ids[:start] for start in starts]


def test_the_image_matters_and_may_be_left_out(saved: Path) -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    chats = [open_chat(saved, each, 12, GREEDY) for each in [images[:1], images[1:], []]]
    assert len({chat.ask("what is red ?", lambda piece: None) for chat in chats}) == 3


def test_sampling_is_seeded_and_each_turn_draws_anew(saved: Path) -> None:
    def answers(seed: int, *questions: str) -> list[str]:
        conversation = open_chat(saved, [], 12, Sampling(2.0, seed=seed))
        return [conversation.ask(question, lambda piece: None) for question in questions]

    assert answers(1, "red ?") == answers(1, "red ?")
    assert answers(1, "red ?") != answers(2, "red ?")
    conversation = open_chat(saved, [], 12, Sampling(1e6, seed=1))
    first = conversation.ask("red ?", lambda piece: None)
    assert conversation.ask("red ?", lambda piece: None) != first  # though every token is as likely


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nothing"], "no file or folder 'nothing', and no store of runs at sqlite:///"),
        (["--model", "."], "checkpoint config.json: cannot be read"),
        (["--model", "saved", "--image", "none.png"], "none.png: No such file or directory"),
        (["--model", "saved", "--image", "base.yaml"], "base.yaml: is not an image"),
        (["--model", "saved", "--image", "."], "--image: .: Is a directory"),
        (["--model", "saved", "--top-k", "5"], "set a temperature above 0"),
        (["--model", "nothing", "--question", "caf\udce9"], "--question: is not text in UTF-8"),
        (["--model", "saved", "--temperature", "-1"], "temperature must be 0 (greedy) or above"),
    ],
)
def test_mistakes_are_one_line(
    saved: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("mlflow.db").exists()


def test_a_typed_question_that_is_not_text_is_one_line(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b"red ?\ncaf\xe9 ?\n"), "utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    assert chat("--model", str(saved), "--max-new-tokens", "5") == 2
    said = capsys.readouterr()
    assert len(said.out) > len("> > ")  # the first is answered
    assert said.err == "ablate: command line: question: is not text in UTF-8\n"


def test_a_folder_without_its_tokenizer_is_refused(saved: Path) -> None:
    (saved / TOKENIZER).unlink()
    with pytest.raises(ConfigError, match=r"--model: no tokenizer at .*tokenizer.json"):
        open_chat(saved, [], 5, GREEDY)


def test_runs_that_cannot_be_asked(house: Path) -> None:
    tracker = Tracker()
    parent, _ = tracker.parent("sweep", "s")
    run = compose([Layer("test", expand(BASE, "base"))])
    old = tracker.start("cell", "mlp-s0", parent, run, identity="a")
    tracker.end(old, "FINISHED")
    with pytest.raises(
        ConfigError, match=r"no file, folder or run 'mlp-s1' in .* did you mean 'mlp-s0'"
    ):
        find_model("mlp-s1")
    with pytest.raises(ConfigError, match=r"has not kept its model; .*train.save=true") as refused:
        find_model("mlp-s0")
    assert "'mlp-s0' (FINISHED)" in str(refused.value)
    assert "--rerun mlp-s0" in str(refused.value)
    (house / "model").mkdir()
    (house / "model" / "config.json").write_text("{}")
    tracker.client.log_artifact(old, str(house / "model"))
    tracker.end(tracker.start("cell", "mlp-s0", parent, run, identity="b"), "FAILED")
    assert (find_model("mlp-s0") / "config.json").read_text() == "{}"  # the newest that has one


def streamed(tokenizer: Tokenizer, ids: list[int]) -> tuple[list[str], str]:
    pieces: list[str] = []
    stream = TextStream(tokenizer, pieces.append)
    for token in ids:
        stream.push(token)
    return pieces, stream.end()


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_text_comes_in_whole_characters(kind: str) -> None:
    tokenizer = train_tokenizer(TEXTS, kind, 262)  # type: ignore[arg-type]
    ids = tokenizer.encode("你好 🙂 häßlich red 🙂")
    pieces, text = streamed(tokenizer, [*ids, tokenizer.eos_id, *ids])
    assert "".join(pieces) == text == tokenizer.decode(ids)
    assert "\N{REPLACEMENT CHARACTER}" not in text
    assert all(pieces)
    assert len(pieces) >= 5
    if kind == "bpe":
        assert len(ids) > len(text)  # a character of several tokens
        unfinished = streamed(tokenizer, tokenizer.encode("🙂")[:-1])
        assert unfinished == (["\N{REPLACEMENT CHARACTER}"], "\N{REPLACEMENT CHARACTER}")


def test_tokens_that_are_no_text_stop_no_stream() -> None:
    tokenizer = train_tokenizer(TEXTS, "bpe", 262)
    generator = random.Random(0)
    for _ in range(50):
        ids = [generator.randrange(5, tokenizer.vocab_size) for _ in range(30)]
        pieces, text = streamed(tokenizer, ids)
        assert text == tokenizer.decode(ids)
        assert len("".join(pieces)) == len(text)


def test_bf16_answers_too(saved: Path) -> None:
    conversation = open_chat(saved, [Image.effect_noise((64, 64), 90)], 5, GREEDY)
    assert not conversation.bf16
    rounded = Chat(**{**vars(conversation), "bf16": True})
    assert rounded.ask("what is red ?", lambda piece: None)
