"""What every image encoder must do; a test class of each encoder inherits it."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torch import Tensor

from ablate.components.encoders.base import Encoder, Pixels
from tests.components.called_once import assert_called_once


def noise_image(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def batch_of(images: list[Pixels]) -> Pixels:
    if isinstance(images[0], dict):
        return {key: torch.stack([image[key] for image in images]) for key in images[0]}
    return torch.stack(images)


def row(pixels: Pixels, index: int) -> Pixels:
    if isinstance(pixels, dict):
        return {key: value[index : index + 1] for key, value in pixels.items()}
    return pixels[index : index + 1]


class EncoderContract:
    """Inherit, and give ``build``: () -> an encoder with random weights, the same each time."""

    build: Callable[[], Encoder]
    sees = True

    def seeded(self, seed: int = 0) -> Encoder:
        torch.manual_seed(seed)
        return self.build()

    @pytest.fixture
    def encoder(self) -> Encoder:
        return self.seeded()

    @pytest.fixture
    def pixels(self, encoder: Encoder) -> Pixels:
        return batch_of([encoder.transform(noise_image(seed)) for seed in range(3)])

    def test_features_have_the_announced_shape(self, encoder: Encoder, pixels: Pixels) -> None:
        features = encoder(pixels)
        assert features.shape == (3, encoder.num_tokens, encoder.embed_dim)
        assert encoder.num_tokens == encoder.grid[0] * encoder.grid[1]
        assert features.isfinite().all()

    def test_transform_is_a_small_picklable_callable(self, encoder: Encoder) -> None:
        image = noise_image(0)
        pickled = pickle.dumps(encoder.transform)
        assert len(pickled) < 10_000
        restored = pickle.loads(pickled)(image)
        expected = encoder.transform(image)
        if not isinstance(expected, dict):
            assert expected.shape == (3, encoder.image_size, encoder.image_size)
            restored, expected = {"": restored}, {"": expected}
        assert restored.keys() == expected.keys()
        for key, value in expected.items():
            assert value.dtype == torch.float32
            assert torch.equal(restored[key], value)

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
    def test_transform_takes_images_of_any_mode(self, encoder: Encoder, mode: str) -> None:
        pixels = encoder.transform(noise_image(0).convert(mode))
        for value in pixels.values() if isinstance(pixels, dict) else [pixels]:
            assert value.shape[0] == 3

    def test_gradients_reach_every_parameter(self, pixels: Pixels) -> None:
        encoder = self.seeded()
        features = encoder(pixels)
        (features * torch.randn_like(features)).sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_units_are_called_as_wholes(self, encoder: Encoder, pixels: Pixels) -> None:
        assert_called_once(encoder.units, lambda: encoder(pixels))

    def test_rows_of_a_batch_are_independent(self, encoder: Encoder, pixels: Pixels) -> None:
        together = encoder(pixels)
        for index in range(3):
            torch.testing.assert_close(
                encoder(row(pixels, index)), together[index : index + 1], atol=1e-4, rtol=1e-4
            )

    def test_features_depend_on_the_image(self, encoder: Encoder, pixels: Pixels) -> None:
        features = encoder(pixels)
        assert torch.equal(features[0], features[1]) is not self.sees

    def test_the_seed_decides_the_weights(self) -> None:
        first, again, other = (parameters(self.seeded(seed)) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_state_dict_restores_the_encoder(self, encoder: Encoder, pixels: Pixels) -> None:
        other = self.seeded(1)
        other.load_state_dict(encoder.state_dict())
        assert torch.equal(other(pixels), encoder(pixels))

    def test_is_built_on_the_meta_device(self, encoder: Encoder) -> None:
        with torch.device("meta"):
            abstract = self.build()
        assert all(p.is_meta for p in abstract.parameters())
        assert shapes(abstract) == shapes(encoder)
        assert abstract.grid == encoder.grid

    def test_runs_under_bfloat16_autocast(self, encoder: Encoder, pixels: Pixels) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder(pixels)
        assert features.isfinite().all()
        torch.testing.assert_close(features.float(), encoder(pixels), atol=0.2, rtol=0.1)


def parameters(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in module.named_parameters()}
