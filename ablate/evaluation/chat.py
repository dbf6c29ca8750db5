"""A conversation with a trained model about images: the model found, its answers as they come."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image

from ablate.components.checkpoints import CheckpointError
from ablate.config.registries import data_set
from ablate.data.images import ImageError, decode_image
from ablate.data.llava_records import IMAGE_TOKEN, placed_turn
from ablate.data.samples import Sample, Turn
from ablate.data.templates import ChatTemplate
from ablate.data.text import PromptCollator
from ablate.data.tokenizer import TOKENIZER, Tokenizer
from ablate.errors import COMMAND_LINE, ConfigError
from ablate.evaluation.kept_models import saved_model
from ablate.models.devices import device_here, precision, to_device
from ablate.models.generation import GREEDY, Sampling
from ablate.models.saved import load
from ablate.models.seeding import derive
from ablate.models.vlm import VisionLanguageModel
from ablate.tracking.described import find_runs
from ablate.tracking.store import NAME


def find_model(reference: str) -> Path:
    """The folder of a saved model.

    Args:
        reference: the folder itself, or the id or name of a run in the MLflow store that saved its
            model; of several runs of that name, the newest that did.

    Raises:
        ConfigError: neither a folder nor a run, or no such run has saved its model.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder
    tracker, found = find_runs(reference, "--model")
    for run in found:
        if (model := saved_model(tracker, run)) is not None:
            return model
    name = found[0].data.tags[NAME]
    again = f"ablate sweep FILE train.save=true --rerun {shlex.quote(name)}"
    message = f"run {reference!r} ({found[0].info.status}) has not kept its model; `{again}` does"
    raise ConfigError(COMMAND_LINE, "--model", message)


def read_image(path: Path) -> Image.Image:
    """An image file.

    Raises:
        ConfigError: no such file, or no image.
    """
    try:
        return decode_image(path.expanduser().read_bytes())
    except OSError as error:
        raise ConfigError(COMMAND_LINE, "--image", f"{path}: {error.strerror}") from error
    except ImageError as error:
        message = f"{path}: is not an image that Pillow can read: {error}"
        raise ConfigError(COMMAND_LINE, "--image", message) from error


@dataclass
class Chat:
    """Questions about images and their answers, each turn with all turns before it.

    Attributes:
        model: in evaluation mode, on the device it answers on.
        tokenizer, template: how the conversation becomes ids, as in training.
        images: what it is about; none for a conversation of text alone. Several stand where the
            first question has ``<image>``, or else before it, a line each.
        max_new_tokens: the longest answer.
        sampling: how tokens are chosen; every turn draws from its own stream of the seed.
        bf16: whether it runs under bf16 autocast, as it is evaluated.
        turns: the conversation so far.
    """

    model: VisionLanguageModel
    tokenizer: Tokenizer
    template: ChatTemplate
    images: Sequence[Image.Image] = ()
    max_new_tokens: int = 256
    sampling: Sampling = GREEDY
    bf16: bool = False
    turns: list[Turn] = field(default_factory=list)

    def ask(self, question: str, show: Callable[[str], None]) -> str:
        """Answer the next question.

        Args:
            question: the user's words.
            show: called with each further piece of the answer.

        Returns:
            The whole answer.
        """
        asked = self._asked(question)
        sample = Sample("chat", None, [*self.turns, asked]).showing(self.images)
        collate = PromptCollator(
            self.tokenizer,
            self.template,
            self.model.encoder.transform,
            image_tokens=self.model.connector.num_output_tokens,
        )
        batch = collate([sample])
        device = next(self.model.parameters()).device
        text = TextStream(self.tokenizer, show)
        seed = derive(self.sampling.seed, f"turn/{len(self.turns)}")
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            self.model.generate(
                to_device(batch["pixels"], device),
                batch["input_ids"].to(device),
                batch["attention_mask"].to(device),
                placed=to_device(batch["placed"], device),
                max_new_tokens=self.max_new_tokens,
                stop_ids=[self.tokenizer.eos_id],
                sampling=replace(self.sampling, seed=seed),
                on_tokens=lambda ids: text.push(int(ids)),
            )
        answer = text.end()
        self.turns.append(replace(asked, answer=answer.strip()))
        return answer

    def _asked(self, question: str) -> Turn:
        """The next question, with the places of several images if it is the first.

        Raises:
            ConfigError: ``<image>`` stands in it, though not as often as there are images.
        """
        if self.turns or len(self.images) < 2:
            return Turn(question, "")
        images, shown = len(self.images), question.count(IMAGE_TOKEN)
        if shown == 0:
            return placed_turn(f"{IMAGE_TOKEN}\n" * images + question, "")
        if shown != images:
            message = (
                f"has {IMAGE_TOKEN} {shown} times for {images} images; write it once for each, or "
                "leave it out"
            )
            raise ConfigError(COMMAND_LINE, "question", message)
        return placed_turn(question, "")


class TextStream:
    """Text out of tokens as they come, a character only when all its tokens have.

    (The tokenizers library's ``DecodeStream`` raises on bytes that are no text, and a half-trained
    model may well write some.)

    Args:
        tokenizer: decodes the tokens; nothing is shown of and after its end token.
        show: called with each further piece.
    """

    def __init__(self, tokenizer: Tokenizer, show: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._show = show
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token: int) -> None:
        """Take the next token."""
        self._ids.append(token)
        # A character whose last bytes are still to come decodes to the replacement character.
        self._advance(self._tokenizer.decode(self._ids).rstrip("\N{REPLACEMENT CHARACTER}"))

    def end(self) -> str:
        """Show what was held back, and return the whole text."""
        text = self._tokenizer.decode(self._ids)
        self._advance(text)
        return text

    def _advance(self, text: str) -> None:
        if len(text) > self._shown:
            self._show(text[self._shown :])
            self._shown = len(text)


def open_chat(
    folder: Path, images: Sequence[Image.Image], max_new_tokens: int, sampling: Sampling
) -> Chat:
    """A conversation with the model in a folder, on the GPU if there is one.

    Raises:
        ConfigError: the folder has no whole model of ours, or its data set's chat template cannot
            be had.
    """
    try:
        model, config = load(folder)
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        template = data_set(config).template
    except (CheckpointError, ValueError) as error:
        raise ConfigError(COMMAND_LINE, "--model", str(error)) from error
    return Chat(
        model.to(device_here()).eval(),
        tokenizer,
        template,
        images,
        max_new_tokens,
        sampling,
        bf16=precision(config.train) == "bf16-mixed",
    )
