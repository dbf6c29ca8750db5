"""Tokens and labels of each template are those of its owner's code, whatever the tokenizer."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

from ablate.data.placement import IMAGE_INDEX
from ablate.data.samples import Sample, Turn
from ablate.data.templates import CaptionTemplate, get_template
from ablate.data.text import (
    IGNORE_INDEX,
    TrainCollator,
    encode_conversation,
    encode_prompt,
)
from ablate.data.tokenizer import Piece, Tokenizer, train_tokenizer
from tests.data.support import image, to_tensor
from tests.library_tokenizers import MAKERS, TEXTS, VOCAB, Library

ONE = [Turn("Is there a red circle?\nAnswer with a single word.", "Yes")]
TWO = [*ONE, Turn("What is  two and two?", "4, or two and 2"), Turn("No?", "Yes. True\nor no")]
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
Rows = tuple[list[int], list[int]]
"""Ids and labels."""


def by_message(library: Library, messages: list[str]) -> Rows:
    """Human messages and answers in turn, as prismatic-vlms, Cobra and ML-Mamba encode them.

    (``FinetuneDataset`` of their ``preprocessing/datasets/datasets.py``: each message is tokenised
    alone, with the tokenizer's special tokens before the first; labels are the answers' tokens.)
    """
    ids: list[int] = []
    labels: list[int] = []
    for index, message in enumerate(messages):
        found = library.ids(message, start=index == 0)
        ids += found
        labels += found if index % 2 else [IGNORE_INDEX] * len(found)
    return ids, labels


def ml_mamba(library: Library, turns: list[Turn], image: bool) -> Rows:
    """With the messages of ``ZephyrChatPromptBuilder``."""
    end = library.ours.eos_token
    messages: list[str] = []
    for turn in turns:
        before = "\n" if messages else ""
        messages.append(f"{before}<|user|>\n{turn.question}{end}\n<|assistant|>\n")
        messages.append(turn.answer + end)
    return by_message(library, messages)


def plain(library: Library, turns: list[Turn], image: bool) -> Rows:
    """Our own: a line for each question and each answer, message by message."""
    messages: list[str] = []
    for turn in turns:
        messages.append(("\n" if messages else "") + turn.question + "\n")
        messages.append(turn.answer + library.ours.eos_token)
    return by_message(library, messages)


def image_token(library: Library, text: str, image: Sequence[int] = ()) -> list[int]:
    """LLaVA's ``tokenizer_image_token``: tokenised between images, one beginning kept.

    ``image`` is what it puts between; nothing for an image that is put elsewhere.
    """
    first, *rest = (library.ids(chunk, start=True) for chunk in text.split("<image>"))
    begins = len(first) > 0 and first[0] == library.theirs.bos_token_id
    return first + [token for chunk in rest for token in (*image, *chunk[begins:])]


def marked(turn: Turn) -> str:
    """A question with LLaVA's token where it has images."""
    ends = [0, *turn.places, len(turn.question)]
    return "<image>".join(turn.question[start:end] for start, end in pairwise(ends))


def vicuna(turns: list[Turn], image: bool, end: str) -> Iterator[tuple[str, str]]:
    """LLaVA's ``conv_vicuna_v1``: the text up to each answer, and up to its end."""
    text = f"{SYSTEM} "
    for index, turn in enumerate(turns):
        text += f"USER: {'<image>' + chr(10) if image and index == 0 else ''}{marked(turn)} "
        before = f"{text}ASSISTANT:"
        text = f"{before} {turn.answer}{end}"
        yield before, text


def llava(library: Library, turns: list[Turn], image: bool, inside: Sequence[int] = ()) -> Rows:
    """All in one, and supervised what comes on top of the text up to an answer."""
    texts = list(vicuna(turns, image, library.ours.eos_token))
    ids = image_token(library, texts[-1][1], inside)
    labels = [IGNORE_INDEX] * len(ids)
    for before, after in texts:
        ends = [len(image_token(library, text, inside)) for text in (before, after)]
        span = slice(*ends)
        labels[span] = ids[span]
    return ids, labels


def llava_inside(library: Library, turns: list[Turn], image: bool) -> Rows:
    """With the image where its owner has it."""
    return llava(library, turns, image, [IMAGE_INDEX])


def preprocess_v1(library: Library, turns: list[Turn], image: bool) -> Rows:
    """LLaVA's own labels, counted in tokens of rounds; for a Llama tokenizer of legacy behaviour.

    (``preprocess_v1`` of ``llava/train/train.py``: a round is what stands between two ends; its
    beginning token counts for the end, and "ASSISTANT: " has two tokens that are no instruction's.)
    """
    text = list(vicuna(turns, image, "</s>"))[-1][1]
    ids = image_token(library, text)
    labels, place = list(ids), 1
    labels[:place] = [IGNORE_INDEX]
    for part in text.split("</s>")[:-1]:
        instruction = part.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        masked = len(image_token(library, instruction)) - 2
        labels[place : place + masked] = [IGNORE_INDEX] * masked
        place += len(image_token(library, part))
    assert place == len(ids)
    return ids, labels


OWNERS: dict[str, Callable[[Library, list[Turn], bool], Rows]] = {
    "plain": plain,
    "ml-mamba": ml_mamba,
    "llava-1.5": llava,
    "llava-1.5-inside": llava_inside,
}


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("turns", [ONE, TWO], ids=["one", "three"])
@pytest.mark.parametrize("template", OWNERS)
@pytest.mark.parametrize("name", MAKERS)
def test_tokens_and_labels_are_the_owners(
    libraries: dict[str, Library], name: str, template: str, turns: list[Turn], image: bool
) -> None:
    library = libraries[name]
    found = encode_conversation(turns, get_template(template), library.ours, 10_000, image=image)
    assert found == OWNERS[template](library, turns, image)


@pytest.mark.parametrize("name", MAKERS)
def test_several_images_stand_where_llava_has_them(
    libraries: dict[str, Library], name: str
) -> None:
    """As LLaVA-NeXT-Interleave leaves ``<image>`` where a message has it."""
    library = libraries[name]
    first = Turn("\n\nWhat is like that?", "4, or two and 2", (0, 1, 14))
    turns = [first, Turn("No?", "Yes"), Turn("two and ", "True", (8,))]
    for template in ("llava-1.5", "llava-1.5-inside"):
        found = encode_conversation(turns, get_template(template), library.ours, 10_000)
        assert found == llava_inside(library, turns, image=False)
        assert found[0].count(IMAGE_INDEX) == 4


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("template", OWNERS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_prompt_is_what_training_has_before_the_answer(
    libraries: dict[str, Library], name: str, template: str, image: bool
) -> None:
    tokenizer, chosen = libraries[name].ours, get_template(template)
    ids, labels = encode_conversation(TWO, chosen, tokenizer, 10_000, image=image)
    prompt = encode_prompt(TWO, chosen, tokenizer, image=image)
    assert ids[: len(prompt)] == prompt
    assert labels[len(prompt) - 1] == IGNORE_INDEX
    assert labels[len(prompt) :] == ids[len(prompt) :]
    assert (
        tokenizer.decode(ids[len(prompt) :]).split()
        == tokenizer.decode(tokenizer.encode("Yes. True\nor no")).split()
    )


@pytest.mark.parametrize("image", [True, False])
def test_llavas_own_count_of_labels(libraries: dict[str, Library], image: bool) -> None:
    legacy, fast = libraries["llama-legacy"], libraries["llama-fast"]
    template = get_template("llava-1.5")
    for library, turns in [(legacy, ONE), (legacy, TWO), (fast, ONE)]:
        found = encode_conversation(turns, template, library.ours, 10_000, image=image)
        assert found == preprocess_v1(library, turns, image)


def test_a_legacy_tokenizer_gives_no_stray_token(libraries: dict[str, Library]) -> None:
    tokenizer = libraries["llama-legacy"].ours
    ids, labels = encode_conversation(ONE, get_template("llava-1.5"), tokenizer, 10_000)
    tokens = [tokenizer.backend.id_to_token(token) for token in ids]
    assert tokens[0] == "<s>"
    assert tokens[-4:] == ["▁ASSISTANT", ":", "▁Yes", "</s>"]
    assert [token for token in labels if token != IGNORE_INDEX] == ids[-2:]


@pytest.mark.parametrize("template", ["plain", "ml-mamba"])
@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_our_own_tokenizers_encode_as_they_did(kind: str, template: str) -> None:
    """Text piece by piece, which finished runs were trained with."""
    tokenizer = train_tokenizer(TEXTS, kind, VOCAB)  # type: ignore[arg-type]
    ids: list[int] = []
    labels: list[int] = []
    for turn in TWO:
        before = "\n" if ids else ""
        prompts = {
            "plain": f"{before}{turn.question}\n",
            "ml-mamba": f"{before}<|user|>\n{turn.question}<|endoftext|>\n<|assistant|>\n",
        }
        prompt = tokenizer.backend.encode(prompts[template], add_special_tokens=False).ids
        answer = tokenizer.backend.encode(turn.answer, add_special_tokens=False).ids
        answer = [*answer, tokenizer.eos_id]
        ids += prompt + answer
        labels += [IGNORE_INDEX] * len(prompt) + answer
    assert encode_conversation(TWO, get_template(template), tokenizer, 10_000) == (ids, labels)


@pytest.mark.parametrize("name", MAKERS)
def test_captions_are_learnt_alone(libraries: dict[str, Library], name: str) -> None:
    """``AlignDataset`` of Cobra and ML-Mamba: ``{caption}{eos}``, all but a beginning learnt."""
    library = libraries[name]
    caption = f"The square is blue.{library.ours.eos_token}"
    ids = library.ids(caption, start=True)
    begins = ids != library.ids(caption)
    labels = [IGNORE_INDEX] * begins + ids[begins:]
    turns = [Turn("Render a clear and concise summary of the photo.", "The square is blue.")]
    assert encode_conversation(turns, CaptionTemplate(), library.ours, 10_000) == (ids, labels)


def test_captions_are_single_answers_about_an_image() -> None:
    tokenizer = train_tokenizer(TEXTS, "word", VOCAB)
    collate = TrainCollator(tokenizer, CaptionTemplate(), to_tensor, 10_000)
    assert collate([Sample("a", image(1), ONE)])["labels"].shape == (1, 2)
    with pytest.raises(ValueError, match="sample 'b': has 3 turns, and prompts: drop"):
        collate([Sample("b", image(1), TWO)])
    with pytest.raises(ValueError, match="sample 'c': has no image, and prompts: drop"):
        collate([Sample("c", None, ONE)])


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content.strip() }} "
    "[/INST]{% else %}{% generation %} {{ m.content.strip() }} {{ eos_token }}"
    "{% endgeneration %}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}"
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_chat(name: str, folder: Path, jinja: str) -> Library:
    """A library's tokenizer with a chat template, and the tokens that it writes."""
    made, _ = MAKERS[name](folder)
    end = "<|im_end|>" if "<|im_end|>" in jinja else made.eos_token
    made.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    made.eos_token, made.chat_template = end, jinja
    made.save_pretrained(folder / "saved")
    theirs = PreTrainedTokenizerFast.from_pretrained(folder / "saved")
    return Library(Tokenizer.load(folder / "saved" / "tokenizer.json"), theirs)


def messages(turns: list[Turn]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in (("user", turn.question), ("assistant", turn.answer))
    ]


@pytest.mark.parametrize("turns", [ONE, TWO], ids=["one", "three"])
@pytest.mark.parametrize("jinja", [CHATML, LLAMA2, QWEN3], ids=["chatml", "llama-2", "qwen-3"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_tokenizers_own_chat_template(
    name: str, jinja: str, turns: list[Turn], tmp_path: Path
) -> None:
    library = with_chat(name, tmp_path, jinja)
    template, said = get_template("tokenizer"), messages(turns)
    prompt = library.theirs.apply_chat_template(said[:-1], add_generation_prompt=True)
    assert encode_prompt(turns, template, library.ours) == prompt["input_ids"]
    whole = library.theirs.apply_chat_template(
        said, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, labels = encode_conversation(turns, template, library.ours, 10_000)
    assert ids == whole["input_ids"]
    learnt = [label != IGNORE_INDEX for label in labels]
    assert learnt == [bool(mask) for mask in whole["assistant_masks"]]


def test_a_chat_template_goes_with_its_tokenizer(tmp_path: Path) -> None:
    library = with_chat("gpt-neox", tmp_path, CHATML)
    prompt = encode_prompt(ONE, get_template("tokenizer"), library.ours)
    (tmp_path / "copied").mkdir()
    library.ours.save(tmp_path / "copied" / "tokenizer.json")
    for tokenizer in (
        Tokenizer.load(tmp_path / "copied" / "tokenizer.json"),
        pickle.loads(pickle.dumps(library.ours)),
    ):
        assert encode_prompt(ONE, get_template("tokenizer"), tokenizer) == prompt
        assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{{ raise_exception('only the user speaks') }}", "only the user speaks"),
        ("{% for m in messages %}{{ m.content", "unexpected end of template"),
        ("{{ messages[0].content }}<|im_end|>", "rewrites or leaves out what is said"),
        ("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}", "rewrites or"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "does not end an answer"),
        (
            CHATML.replace("assistant\n{% endif", "assistant: {% endif"),
            "begins an answer otherwise",
        ),
    ],
)
def test_chat_templates_that_cannot_be_followed(jinja: str, message: str, tmp_path: Path) -> None:
    library = with_chat("gpt-neox", tmp_path, CHATML)
    config = {**library.ours.config, "chat_template": jinja}
    tokenizer = Tokenizer(library.ours.backend, config=config)
    with pytest.raises(ValueError, match=message):
        encode_conversation(ONE, get_template("tokenizer"), tokenizer, 10_000)


def test_a_tokenizer_without_a_chat_template(tmp_path: Path) -> None:
    library = with_chat("gpt-neox", tmp_path, CHATML)
    saved = tmp_path / "saved" / "tokenizer.json"
    other = saved.with_name("neox.json")  # what lies beside may be another's
    other.write_text(saved.read_text())
    with pytest.raises(ValueError, match="has no chat template of its own"):
        encode_prompt(ONE, get_template("tokenizer"), Tokenizer.load(other))
    assert library.ours.config["chat_template"] == CHATML


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"eos_token": 3}', '{"chat_template": 3}', '{"chat_template": [{"name": "a"}]}'],
)
def test_what_is_wrong_beside_a_tokenizer_is_said(content: str, tmp_path: Path) -> None:
    train_tokenizer(TEXTS, "word", VOCAB).save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer_config.json is no tokenizer_config.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_chat_templates_by_name(tmp_path: Path) -> None:
    library = with_chat("gpt-neox", tmp_path, CHATML)
    prompt = encode_prompt(ONE, get_template("tokenizer"), library.ours)
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
    values = {"chat_template": named, "eos_token": {"content": "<|im_end|>", "lstrip": False}}
    (tmp_path / "saved" / "chat_template.jinja").unlink(missing_ok=True)
    (tmp_path / "saved" / "tokenizer_config.json").write_text(json.dumps(values))
    path = tmp_path / "saved" / "tokenizer.json"
    Tokenizer.load(path).save(path)
    tokenizer = Tokenizer.load(path)
    assert encode_prompt(ONE, get_template("tokenizer"), tokenizer) == prompt
    assert tokenizer.eos_token == "<|im_end|>"


def test_no_text_makes_a_control_token(libraries: dict[str, Library]) -> None:
    tokenizer = libraries["gpt-neox"].ours
    for index in range(3):
        pieces = [Piece(f"a\ufdd0{index}\ufdd0b", typed=True)]
        ids = [token for token, _ in tokenizer.encode_pieces(pieces)]
        assert tokenizer.backend.decode(ids, skip_special_tokens=False).startswith("a\ufffd")


@pytest.mark.parametrize("template", [*OWNERS, "tokenizer"])
@pytest.mark.parametrize("name", MAKERS)
def test_special_tokens_that_are_typed_are_text(name: str, template: str, tmp_path: Path) -> None:
    tokenizer, chosen = with_chat(name, tmp_path, CHATML).ours, get_template(template)
    added = tokenizer.backend.get_added_tokens_decoder().items()
    special = {token.content: i for i, token in added if token.special}
    unknown = special.get("<unk>")  # also of words that a tokenizer does not know
    typed = [Turn(f"Is {one} there?", f"Yes{one}No") for one in special]
    harmless = [Turn("Is it there?", "Yes No") for _ in special]

    def controls(turns: list[Turn], parse: bool) -> list[int]:
        ids, _ = encode_conversation(turns, chosen, tokenizer, 10_000, parse_special_tokens=parse)
        return [token for token in ids if token in special.values() and token != unknown]

    assert controls(typed, parse=False) == controls(harmless, parse=False)
    assert controls(harmless, parse=True) == controls(harmless, parse=False)
    meant = [i for i in special.values() if i != unknown]
    expected = [*controls(harmless, parse=False), *meant, *meant]
    assert sorted(controls(typed, parse=True)) == sorted(expected)
    if name != "word":  # which keeps no brackets
        ids, _ = encode_conversation(typed, chosen, tokenizer, 10_000, image=False)
        shown = tokenizer.backend.decode(ids)
        assert all(shown.count(one) >= 2 for one in special)


def test_an_end_token_that_is_no_added_token_still_ends_an_answer() -> None:
    model = tokenizers.models.WordLevel({"a": 0, "</s>": 1, "<": 2, "/": 3, "s": 4}, unk_token="a")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Punctuation("isolated")
    ids, labels = encode_conversation(
        [Turn("a", "</s>")], get_template("plain"), Tokenizer(backend), 100
    )
    assert ids[-5:] == labels[-5:] == [2, 3, 4, 0, 1]
