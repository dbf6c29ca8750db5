"""What every backbone must do. A backbone's test class inherits ``BackboneContract``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ablate.components.backbones import Backbone, Likeliest
from tests.components.called_once import assert_called_once

VOCAB = 50
ATOL = 2e-5


class BackboneContract:
    """Inherit, and make ``build`` return the backbone for a tokenizer of ``vocab_size`` ids."""

    def build(self, vocab_size: int = VOCAB) -> Backbone:
        raise NotImplementedError

    @pytest.fixture
    def backbone(self) -> Backbone:
        """A backbone whose layers matter: fresh weights barely move the residual stream."""
        torch.manual_seed(0)
        backbone = self.build().eval()
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return backbone

    @pytest.fixture
    def embeds(self, backbone: Backbone) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(0, VOCAB, (3, 21), generator=generator)
        return backbone.embed(ids).detach()

    def test_shapes(self, backbone: Backbone, embeds: Tensor) -> None:
        assert backbone.vocab_size >= VOCAB
        assert embeds.shape == (3, 21, backbone.d_model)
        hidden = backbone.hidden_states(embeds)
        assert hidden.shape == embeds.shape
        assert backbone(embeds).shape == (3, 21, backbone.vocab_size)
        state = backbone.init_state(3, 21)
        assert backbone.prefill(embeds[:, :20], state).shape == (3, backbone.vocab_size)
        assert backbone.step(embeds[:, 20], state).shape == (3, backbone.vocab_size)

    def test_units_are_called_as_wholes(self, backbone: Backbone, embeds: Tensor) -> None:
        assert_called_once(backbone.units, lambda: backbone.hidden_states(embeds))

    def test_future_is_unseen(self, backbone: Backbone, embeds: Tensor) -> None:
        changed = embeds.clone()
        changed[:, 10:] = embeds[:, 10:].flip(-1)
        before, after = backbone(embeds), backbone(changed)
        torch.testing.assert_close(before[:, :10], after[:, :10], atol=ATOL, rtol=0)
        assert not torch.allclose(before[:, 10:], after[:, 10:], atol=1e-3)

    def test_past_is_seen(self, backbone: Backbone, embeds: Tensor) -> None:
        changed = embeds.clone()
        changed[:, :10] = embeds[:, :10].flip(-1)
        assert not torch.allclose(backbone(embeds)[:, 10], backbone(changed)[:, 10], atol=1e-3)

    def test_gradients_reach_every_parameter(self, backbone: Backbone) -> None:
        ids = torch.arange(VOCAB).view(2, -1)
        logits = backbone(backbone.embed(ids))
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        ).backward()
        for name, parameter in backbone.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("filler", [0.0, 3.0])
    def test_padding_changes_no_token(
        self, backbone: Backbone, embeds: Tensor, side: str, filler: float
    ) -> None:
        lengths = (21, 13, 1)
        padded, mask = pad(embeds, lengths, side, filler)
        logits = backbone(padded, mask)
        for row, length in enumerate(lengths):
            alone = backbone(embeds[row : row + 1, :length])[0]
            torch.testing.assert_close(logits[row][mask[row].bool()], alone, atol=ATOL, rtol=0)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_changes_no_gradient(
        self, backbone: Backbone, embeds: Tensor, side: str
    ) -> None:
        lengths = (21, 13, 1)
        padded, mask = pad(embeds, lengths, side, 3.0)
        backbone(padded, mask)[mask.bool()].square().sum().backward()
        together = gradients(backbone)
        backbone.zero_grad()
        for row, length in enumerate(lengths):
            backbone(embeds[row : row + 1, :length]).square().sum().backward()
        for name, expected in gradients(backbone).items():
            difference = (together[name] - expected).abs().max()
            assert difference < 1e-4 * expected.abs().max(), name

    def test_packed_sequences_are_as_apart(self, backbone: Backbone, embeds: Tensor) -> None:
        """Sequences side by side in rows, of one position too, and padding at the end of one."""
        documents = torch.tensor([[1] * 8 + [2] * 12 + [3], [4] * 21, [5] * 3 + [6] * 10 + [0] * 8])
        packed = embeds.clone().requires_grad_()
        logits = backbone.head(backbone.packed_hidden_states(packed, documents))
        logits[documents > 0].square().sum().backward()
        together, grad = gradients(backbone), packed.grad
        assert grad is not None
        backbone.zero_grad()
        alone = embeds.clone().requires_grad_()
        for number in range(1, 7):
            row = int((documents == number).any(1).nonzero())
            where = documents[row] == number
            expected = backbone(alone[row, where].unsqueeze(0))[0]
            torch.testing.assert_close(logits[row, where], expected, atol=ATOL, rtol=0)
            expected.square().sum().backward()
        assert alone.grad is not None
        torch.testing.assert_close(grad, alone.grad, atol=1e-4 * float(alone.grad.max()), rtol=0)
        for name, expected in gradients(backbone).items():
            difference = (together[name] - expected).abs().max()
            assert difference < 1e-4 * expected.abs().max(), name

    @pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 4, 1)])
    def test_decoding_equals_the_full_forward(
        self, backbone: Backbone, embeds: Tensor, lengths: tuple[int, ...]
    ) -> None:
        prompt, mask = pad(embeds[:, :9], lengths, "left", 3.0)
        continuation = embeds[:, 9:]
        state = backbone.init_state(3, 21)
        decoded = [backbone.prefill(prompt, state, mask)]
        decoded += [backbone.step(continuation[:, t], state) for t in range(12)]
        for row, length in enumerate(lengths):
            whole = torch.cat([embeds[row, :length], continuation[row]])
            expected = backbone(whole.unsqueeze(0))[0, length - 1 :]
            actual = torch.stack([logits[row] for logits in decoded])
            torch.testing.assert_close(actual, expected, atol=ATOL, rtol=0)

    @torch.inference_mode()
    def test_the_decoder_equals_step(self, backbone: Backbone) -> None:
        """With and without the choice of the next token as part of it, which skips padding."""
        choose, ids = Likeliest(VOCAB), torch.tensor([3, 1, 2])
        states = [backbone.init_state(3, 8) for _ in range(3)]
        for state in states:
            backbone.prefill(backbone.embed(ids[:, None]), state)
        plain, logits, chosen = states
        decode, decode_ids = backbone.decoder(logits), backbone.decoder(chosen, choose)
        for _ in range(5):
            expected = backbone.step(backbone.embed(ids[:, None])[:, 0], plain)
            torch.testing.assert_close(decode(ids), expected, atol=ATOL, rtol=0)
            ids, given = expected[:, :VOCAB].argmax(-1), decode_ids(ids)
            assert torch.equal(given, ids)

    @pytest.mark.parametrize("lengths", [(21, 21, 21), (21, 13, 1)])
    @pytest.mark.parametrize("cuts", [(1, 2, 9), (5, 20), tuple(range(1, 21))])
    def test_prefill_in_chunks(
        self,
        backbone: Backbone,
        embeds: Tensor,
        lengths: tuple[int, ...],
        cuts: tuple[int, ...],
    ) -> None:
        prompt, mask = pad(embeds, lengths, "left", 3.0)
        expected = backbone.prefill(prompt, backbone.init_state(3, 22), mask)
        state = backbone.init_state(3, 22)
        for start, end in zip((0, *cuts), (*cuts, 21), strict=True):
            last = backbone.prefill(prompt[:, start:end], state, mask[:, start:end])
        torch.testing.assert_close(last, expected, atol=ATOL, rtol=0)

    def test_prefill_of_unpadded_chunks_without_a_mask(
        self, backbone: Backbone, embeds: Tensor
    ) -> None:
        prompt, mask = pad(embeds[:, :9], (9, 4, 1), "left", 3.0)
        state = backbone.init_state(3, 21)
        backbone.prefill(prompt, state, mask)
        last = backbone.prefill(embeds[:, 9:], state)
        expected = backbone(embeds[1:2, [*range(4), *range(9, 21)]])[0, -1]
        torch.testing.assert_close(last[1], expected, atol=ATOL, rtol=0)

    def test_forked_states_read_on_by_themselves(self, backbone: Backbone, embeds: Tensor) -> None:
        """Two rows are read, and go on as four, whose chunks are padded on their left."""
        prefix, rows, lengths = embeds[:2, :8], torch.tensor([1, 0, 1, 1]), (13, 6, 1, 2)
        state = backbone.init_state(2, 24)
        backbone.prefill(prefix, state)
        chunk, mask = pad(embeds[[0, 1, 2, 0], 8:], lengths, "left", 3.0)
        for _ in range(2):  # the first time leaves the state that is forked as it is
            forked = backbone.fork(state, rows)
            hidden = backbone.read(chunk, forked, mask)
            after = backbone.step(embeds[0, :1].expand(4, -1), forked)
        for row, length in enumerate(lengths):
            own = [prefix[rows[row]], chunk[row, 13 - length :], embeds[0, :1]]
            whole = torch.cat(own).unsqueeze(0)
            expected = backbone.hidden_states(whole)[0]
            torch.testing.assert_close(
                hidden[row, 13 - length :], expected[8:-1], atol=ATOL, rtol=0
            )
            torch.testing.assert_close(after[row], backbone.head(expected[-1]), atol=ATOL, rtol=0)

    def test_mask_dtype_does_not_matter(self, backbone: Backbone, embeds: Tensor) -> None:
        padded, mask = pad(embeds, (21, 13, 1), "left", 3.0)
        torch.testing.assert_close(backbone(padded, mask.bool()), backbone(padded, mask))

    def test_meta_device(self) -> None:
        with torch.device("meta"):
            backbone = self.build()
        assert all(p.is_meta for p in backbone.parameters())
        built = self.build()
        assert {n: p.shape for n, p in backbone.named_parameters()} == {
            n: p.shape for n, p in built.named_parameters()
        }

    def test_seed_decides_the_weights(self) -> None:
        first, again, other = (self._seeded(seed) for seed in (0, 0, 1))
        for name, value in first.items():
            assert torch.equal(value, again[name]), name
        assert any(not torch.equal(value, other[name]) for name, value in first.items())

    def test_state_dict_round_trip(self, backbone: Backbone, embeds: Tensor) -> None:
        torch.manual_seed(1)
        other = self.build().eval()
        other.load_state_dict(backbone.state_dict())
        torch.testing.assert_close(other(embeds), backbone(embeds), atol=0, rtol=0)

    def test_bfloat16_weights(self, backbone: Backbone, embeds: Tensor) -> None:
        expected = backbone(embeds)
        logits = backbone.bfloat16()(embeds.bfloat16())
        assert logits.dtype == torch.bfloat16
        assert (logits - expected).norm() < 0.05 * expected.norm()

    def _seeded(self, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return self.build().state_dict()


def gradients(backbone: Backbone) -> dict[str, Tensor]:
    """Gradients by name, of the parameters that have one (an untied embedding may not)."""
    return {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}


def pad(
    embeds: Tensor, lengths: tuple[int, ...], side: str, filler: float
) -> tuple[Tensor, Tensor]:
    """Keep the first ``lengths[i]`` positions of each row, on the side away from the padding."""
    padded = torch.full_like(embeds, filler)
    mask = torch.zeros(embeds.shape[:2], dtype=torch.long)
    for row, length in enumerate(lengths):
        where = slice(embeds.shape[1] - length, None) if side == "left" else slice(0, length)
        padded[row, where] = embeds[row, :length]
        mask[row, where] = 1
    return padded, mask
