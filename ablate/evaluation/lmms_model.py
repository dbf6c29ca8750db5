"""A trained model as lmms-eval's evaluator takes it. Importing this needs the package lmms-eval."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from PIL import Image

from ablate.data.images import shown
from ablate.data.samples import Sample, Turn
from ablate.data.text import IGNORE_INDEX, PromptCollator
from ablate.evaluation.chat import Chat
from ablate.evaluation.evaluate import answers_to
from ablate.models.generation import GREEDY, Sampling

DEFAULT_NEW_TOKENS = 128


class LmmsModel(lmms):
    """lmms-eval's ``simple`` interface: ``generate_until`` and ``loglikelihood``.

    A request's context is the question, put in the chat template of the model's data; the answer's
    place is the template's, so that white space around a continuation does not count.

    Args:
        chat: the model with its tokenizer and template, see ``open_chat``.
        batch_size: requests at a time.
    """

    def __init__(self, chat: Chat, batch_size: int) -> None:
        super().__init__()
        self.chat = chat
        self.batch_size = batch_size

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answers to requests of (context, arguments of generation, images, item, task, split).

        Of the arguments, ``max_new_tokens``, ``until``, ``num_beams: 1`` and, unless ``do_sample``
        is false, ``temperature``, ``top_p`` and ``top_k`` are understood.

        Raises:
            ValueError: several images, or beams.
        """
        answers: list[str] = []
        for arguments, group in groupby(requests, key=lambda each: json.dumps(each.args[1])):
            given = json.loads(arguments)
            for chunk in _chunks(list(group), self.batch_size):
                samples = [self._sample(r.args[0], *r.args[2:]) for r in chunk]
                answers += self._asked(samples, {"max_new_tokens": DEFAULT_NEW_TOKENS} | given)[0]
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """(loss, whether the greedy answer is it) for requests of (context, continuation, ...).

        Each pair is wrapped, as lmms-eval 0.7.3 makes a text of what is not.
        The loss is the negative log-probability of the continuation and the token that ends it,
        summed over its tokens: lmms-eval 0.7.3 takes the choice of the least.

        Raises:
            ValueError: several images.
        """
        found: list[GenerationResult] = []
        for chunk in _chunks(requests, self.batch_size):
            samples = [self._sample(r.args[0], *r.args[2:], continuation=r.args[1]) for r in chunk]
            for text, likely, sample in zip(*self._asked(samples, {}), samples, strict=True):
                pair = (-likely, text == sample.turns[-1].answer)
                found.append(GenerationResult(pair))
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not had.

        Raises:
            ValueError: always.
        """
        raise ValueError("tasks of several rounds are not had: a model of ours answers once")

    def _sample(
        self,
        context: str,
        doc_to_visual: Callable[[Any], Any],
        doc_id: int,
        task: str,
        split: str,
        *,
        continuation: str | Callable[[Any], str] = "",
    ) -> Sample:
        doc = self.task_dict[task][split][doc_id]
        images = [each for each in doc_to_visual(doc) or () if each is not None]
        if len(images) > 1 or not all(isinstance(each, Image.Image) for each in images):
            raise ValueError(f"{task}: item {doc_id} has not one image, which the model can see")
        answer = continuation if isinstance(continuation, str) else continuation(doc)
        image = shown(images[0]).image if images else None
        return Sample(f"{task} {doc_id}", image, [Turn(context, answer.strip())])

    def _asked(
        self, samples: Sequence[Sample], given: dict[str, Any]
    ) -> tuple[list[str], list[float]]:
        """What is written, and the log-probability of each sample's answer.

        As many tokens are written as ``given`` says, or else as the longest of these answers has.
        """
        if given.get("num_beams", 1) not in (None, 1):
            raise ValueError(f"num_beams is {given['num_beams']}: beam search is not had")
        chat, transform = self.chat, self.chat.model.encoder.transform
        collate = PromptCollator(
            chat.tokenizer,
            chat.template,
            transform,
            answered=True,
            image_tokens=chat.model.connector.num_output_tokens,
        )
        batch = collate(samples)
        longest = int((batch["right_labels"] != IGNORE_INDEX).sum(1).max())
        how = {
            "max_new_tokens": given.get("max_new_tokens") or longest,
            "stop_ids": [chat.tokenizer.eos_id],
            "sampling": _sampling(given),
        }
        device = next(chat.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=chat.bf16):
            generation, (likely,) = answers_to(chat.model, batch, how, device)
        until = given.get("until") or []
        stops = [until] if isinstance(until, str) else until
        texts = (chat.tokenizer.decode(row) for row in generation.tokens.tolist())
        return [_cut(text, stops).strip() for text in texts], likely.tolist()


def _sampling(given: dict[str, Any]) -> Sampling:
    temperature = float(given.get("temperature") or 0)
    if temperature == 0 or given.get("do_sample") is False:
        return GREEDY
    return Sampling(temperature, given.get("top_k"), given.get("top_p") or 1.0)


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops."""
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text


def _chunks(requests: Sequence[Instance], size: int) -> Iterator[Sequence[Instance]]:
    for start in range(0, len(requests), size):
        yield requests[start : start + size]
