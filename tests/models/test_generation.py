"""The decoding engine: every backbone, unequal lengths, stop tokens, sampling and its seeds."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ablate.components.backbones import BACKBONES, Backbone
from ablate.components.registry import arguments
from ablate.models import generation
from ablate.models.generation import Sampling, generate

VOCAB = 50
LENGTHS = (9, 4, 1)
# The backbones that are tiny by default: a preset has published weights and their size.
TINY = [name for name in BACKBONES.names() if "weights" not in arguments(BACKBONES.get(name))]


def build(name: str) -> Backbone:
    """A backbone whose layers matter: fresh weights barely move the residual stream."""
    torch.manual_seed(0)
    backbone = BACKBONES.get(name)(VOCAB).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return backbone


@pytest.fixture(scope="module")
def mamba() -> Backbone:
    return build("mamba2")


def prompts(backbone: Backbone, lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Random prompts of these lengths, padded on the left with noise, and their mask."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCAB, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    return backbone.embed(ids).detach(), mask.long()


def test_the_registry_has_backbones_to_test() -> None:
    assert {"mamba1", "mamba2", "transformer"} <= set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_token_by_token_equals_the_full_forward(name: str) -> None:
    backbone = build(name)
    embeds, mask = prompts(backbone)
    found = generate(backbone, embeds, mask, max_new_tokens=8, vocab_size=VOCAB)
    assert found.tokens.shape == (3, 8)
    assert found.lengths.tolist() == [8, 8, 8]
    assert len(found.tokens.unique()) > 3
    for row, length in enumerate(LENGTHS):
        sequence = embeds[row : row + 1, -length:]
        with torch.no_grad():
            first = backbone(sequence)[0, -1, :VOCAB]
            torch.testing.assert_close(found.first_logits[row], first, atol=2e-5, rtol=0)
            for token in found.tokens[row]:
                assert backbone(sequence)[0, -1, :VOCAB].argmax() == token
                following = backbone.embed(token[None, None])
                sequence = torch.cat([sequence, following], dim=1)


@pytest.mark.parametrize("look_every", [1, 3, 8])
def test_rows_end_at_their_own_stop_token(
    mamba: Backbone, look_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However seldom the engine looks whether it is done, as on a GPU."""
    monkeypatch.setattr(generation, "_look_every", lambda device: look_every)
    embeds, mask = prompts(mamba)
    free = generate(mamba, embeds, mask, max_new_tokens=12, vocab_size=VOCAB).tokens
    stops = [int(free[0, 2]), int(free[1, 5])]
    ends = [next((t for t in range(12) if int(i[t]) in stops), 12) for i in free]
    for rows in (slice(0, 3), slice(0, 2), slice(0, 1)):
        found = generate(
            mamba, embeds[rows], mask[rows], max_new_tokens=12, stop_ids=stops, vocab_size=VOCAB
        )
        assert found.lengths.tolist() == ends[rows]
        assert found.tokens.shape[1] == min(12, max(ends[rows]) + 1)
        for row, tokens in enumerate(found.tokens.tolist()):
            end = ends[row]
            assert tokens[: end + 1] == free[row, : min(end + 1, len(tokens))].tolist()
            assert set(tokens[end:]) <= {int(free[row, min(end, 11)])}
    assert ends[0] <= 2
    assert ends[1] <= 5


def test_tokens_come_as_they_are_chosen(mamba: Backbone) -> None:
    embeds, mask = prompts(mamba)
    stops = generate(mamba, embeds, mask, max_new_tokens=12).tokens[:, 3].tolist()
    seen: list[Tensor] = []
    found = generate(mamba, embeds, mask, max_new_tokens=12, stop_ids=stops, on_tokens=seen.append)
    assert torch.equal(torch.stack(seen, dim=1), found.tokens)


def test_padding_rows_of_the_head_are_never_generated(mamba: Backbone) -> None:
    embeds, mask = prompts(mamba)
    assert mamba.vocab_size > VOCAB
    hot = Sampling(temperature=1000.0, seed=3)
    free = generate(mamba, embeds, mask, max_new_tokens=60, sampling=hot)
    assert free.tokens.max() >= VOCAB  # at this temperature every token is as likely
    found = generate(mamba, embeds, mask, max_new_tokens=60, sampling=hot, vocab_size=VOCAB)
    assert found.tokens.max() < VOCAB
    assert found.first_logits.shape == (3, VOCAB)


def sample(mamba: Backbone, rows: slice, steps: int = 20, seed: int = 0) -> list[list[int]]:
    embeds, mask = prompts(mamba)
    warm = Sampling(temperature=1.5, top_k=40, top_p=0.95, seed=seed)
    found = generate(mamba, embeds[rows], mask[rows], max_new_tokens=steps, sampling=warm)
    return found.tokens.tolist()


def test_a_seed_decides_the_tokens_and_leaves_other_generators_alone(mamba: Backbone) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = sample(mamba, slice(0, 3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert sample(mamba, slice(0, 3)) == first
    assert sample(mamba, slice(0, 3), seed=1) != first
    assert len({tuple(row) for row in first}) == 3


def test_rows_do_not_depend_on_the_batch(mamba: Backbone) -> None:
    together = sample(mamba, slice(0, 3))
    assert sample(mamba, slice(0, 1)) == together[:1]
    assert sample(mamba, slice(0, 2)) == together[:2]
    longer = sample(mamba, slice(0, 3), steps=33)
    assert [row[:20] for row in longer] == together


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """The plain reference: which tokens may be chosen, one by one, and how likely each is."""
    order = sorted(range(len(logits)), key=lambda i: -float(logits[i]))[: sampling.top_k]
    weights = [float((logits[i] - logits.max()).double() / sampling.temperature) for i in order]
    chances = torch.tensor(weights, dtype=torch.double).softmax(0)
    kept, mass = torch.zeros(len(logits), dtype=torch.double), 0.0
    for token, chance in zip(order, chances.tolist(), strict=True):
        kept[token] = chance
        mass += chance
        if mass >= sampling.top_p:
            break
    return kept / kept.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    list(itertools.product([0.3, 1.0, 2.5], [None, 1, 5, 100], [0.2, 0.7, 1.0])),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_choices_follow_the_distribution(
    temperature: float, top_k: int | None, top_p: float, dtype: torch.dtype
) -> None:
    """Evenly spaced noise gives each token as often as it is likely."""
    sampling = Sampling(temperature, top_k, top_p)
    logits = 2 * torch.randn(37, generator=torch.Generator().manual_seed(2))
    logits = logits.to(dtype).float()  # bfloat16 has ties
    count = 10_000
    noise = (torch.arange(count) + 0.5) / count
    chosen = generation._choose(logits.expand(count, -1), noise, sampling)
    shares = chosen.bincount(minlength=37) / count
    torch.testing.assert_close(
        shares.double(), distribution(logits, sampling), atol=1.5 / count, rtol=0
    )


@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-24])
def test_the_ends_of_the_noise_choose_a_token(noise: float) -> None:
    logits = torch.tensor([[0.0, 3.0, -200.0, 1.0]])
    for temperature in (1e-30, 0.5, 1e6):
        chosen = generation._choose(logits, torch.tensor([noise]), Sampling(temperature))
        assert chosen.item() in ((1,) if temperature < 1e-3 else (0, 1, 2, 3))
    within = Sampling(1.0, top_k=2)
    assert generation._choose(logits, torch.tensor([noise]), within).item() in (1, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"temperature": float("inf")}, "temperature must be 0"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is a number of tokens"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is a probability"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p is a probability"),
        ({"top_k": 5}, "set a temperature above 0"),
        ({"top_p": 0.5}, "set a temperature above 0"),
    ],
)
def test_sampling_that_cannot_be_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**values)  # type: ignore[arg-type]


def test_no_new_token_is_refused(mamba: Backbone) -> None:
    with pytest.raises(ValueError, match="max_new_tokens must be 1 or more, not 0"):
        generate(mamba, prompts(mamba)[0], max_new_tokens=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("sampling", [generation.GREEDY, Sampling(1.5, 40, 0.95, seed=7)])
def test_a_gpu_gives_the_same_tokens(name: str, sampling: Sampling) -> None:
    backbone = build(name)
    embeds, mask = prompts(backbone)
    settings = {"max_new_tokens": 21, "stop_ids": [7, 11], "vocab_size": VOCAB}
    expected = generate(backbone, embeds, mask, sampling=sampling, **settings)  # type: ignore[arg-type]
    backbone.cuda()
    found = generate(backbone, embeds.cuda(), mask.cuda(), sampling=sampling, **settings)  # type: ignore[arg-type]
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.lengths.tolist() == expected.lengths.tolist()
