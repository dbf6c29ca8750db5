from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from encoder_contract import EncoderContract, noise_image

from ablate.components.encoders import ENCODERS, Encoder, FusedEncoder

PRESETS: dict[str, tuple[str, int, int, int]] = {
    # name: timm id, pixels, tokens, width (the paper's list of encoders)
    "clip-vit-l": ("vit_large_patch14_clip_224.openai", 224, 256, 1024),
    "clip-vit-l-336": ("vit_large_patch14_clip_336.openai", 336, 576, 1024),
    "siglip-so400m-384": ("vit_so400m_patch14_siglip_384", 384, 729, 1152),
    "siglip-so400m-224": ("vit_so400m_patch14_siglip_224", 224, 256, 1152),
    "dinov2-vit-l": ("vit_large_patch14_reg4_dinov2.lvd142m", 384, 729, 1024),
    "in1k-vit-l": ("vit_large_patch16_224.augreg_in21k_ft_in1k", 224, 196, 1024),
}
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISATION = {"clip": OPENAI, "siglip": HALF, "dinov2": IMAGENET, "in1k": HALF}


def on_meta(name: str, **args: Any) -> Encoder:
    with torch.device("meta"):
        return ENCODERS.get(name)(**args)


def parameter_count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PRESETS)
class TestPresets:
    def test_sizes_are_the_papers(self, name: str) -> None:
        _, pixels, tokens, width = PRESETS[name]
        encoder = on_meta(name)
        assert (encoder.image_size, encoder.num_tokens) == (pixels, tokens)
        features = encoder(torch.empty(1, 3, pixels, pixels, device="meta"))
        assert features.shape == (1, tokens, width)
        assert encoder.embed_dim == width

    def test_parameters_are_timms_less_what_follows_the_block(self, name: str) -> None:
        timm_name, pixels, _, _ = PRESETS[name]
        with torch.device("meta"):
            whole = timm.create_model(timm_name, img_size=pixels)
        last = f"blocks.{len(whole.blocks) - 1}."
        after = (last, "norm.", "fc_norm.", "head.", "attn_pool.")
        kept = {n: p.shape for n, p in whole.named_parameters() if not n.startswith(after)}
        encoder = on_meta(name)
        assert {n: p.shape for n, p in encoder.vit.named_parameters()} == kept
        assert parameter_count(encoder) < parameter_count(whole)

    def test_normalises_as_it_was_trained(self, name: str) -> None:
        encoder = on_meta(name)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in NORMALISATION[name.split("-")[0]])
        white = noise_image(0).point(lambda _: 255)
        torch.testing.assert_close(encoder.transform(white)[:, :1, :1], (1 - mean) / std)
        assert encoder.transform.interpolation == "bicubic"


def test_clip_has_the_activation_of_its_weights() -> None:
    for name in ("clip-vit-l", "clip-vit-l-336"):
        act = on_meta(name).vit.blocks[0].mlp.act
        x = torch.linspace(-3, 3, 7)
        torch.testing.assert_close(act(x), x * torch.sigmoid(1.702 * x))


@pytest.mark.parametrize(
    ("name", "first", "second", "pixels", "tokens", "width"),
    [
        ("dinosiglip-384", "dinov2-vit-l", "siglip-so400m-384", 384, 729, 2176),
        ("dinoclip-336", "dinov2-vit-l", "clip-vit-l-336", 336, 576, 2048),
    ],
)
def test_fused_presets(
    name: str, first: str, second: str, pixels: int, tokens: int, width: int
) -> None:
    encoder = on_meta(name)
    assert (encoder.image_size, encoder.num_tokens, encoder.embed_dim) == (pixels, tokens, width)
    parts = [on_meta(part, image_size=pixels) for part in (first, second)]
    assert parameter_count(encoder) == sum(map(parameter_count, parts))
    image = noise_image(0)
    made = encoder.transform(image)
    assert list(made) == [first, second]
    for key, part in zip(made, parts, strict=True):
        assert torch.equal(made[key], part.transform(image))
    batch = {key: value[None].to("meta") for key, value in made.items()}
    assert encoder(batch).shape == (1, tokens, width)


class TestFused(EncoderContract):
    """Two small encoders of different patches, sizes and normalisations."""

    PARTS = (
        {
            "name": "timm",
            "args": {
                "model": "vit_small_patch14_reg4_dinov2",
                "image_size": 42,
                "model_args": {"embed_dim": 32, "depth": 3, "num_heads": 2},
            },
        },
        {"name": "timm", "args": {"image_size": 24, "model_args": {"embed_dim": 48}}},
    )

    @classmethod
    def build(cls) -> FusedEncoder:
        return FusedEncoder(encoders=list(cls.PARTS))

    def test_concatenates_channels_in_the_order_given(self) -> None:
        encoder = self.seeded()
        torch.manual_seed(0)
        first, second = (ENCODERS.get("timm")(**part["args"]) for part in self.PARTS)
        image = noise_image(0)
        pixels = {key: value[None] for key, value in encoder.transform(image).items()}
        features = encoder(pixels)
        assert features.shape == (1, 9, 80)
        assert torch.equal(features[..., :32], first(first.transform(image)[None]))
        assert torch.equal(features[..., 32:], second(second.transform(image)[None]))
        assert encoder.image_size == 42

    def test_pixels_must_name_every_part(self) -> None:
        encoder = self.build()
        with pytest.raises(ValueError, match="timm-0, timm-1 and was given one tensor"):
            encoder(torch.zeros(1, 3, 42, 42))
        with pytest.raises(ValueError, match="was given timm-0;"):
            encoder({"timm-0": torch.zeros(1, 3, 42, 42)})


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ([], "at least two encoders, not 0"),
        (["timm"], "at least two encoders, not 1"),
        (["blind", {"name": "blind", "args": {"grid": [4, 4]}}], "blind-0: 8 x 8, blind-1: 4 x 4"),
        (["blind", {"name": "blind", "args": {"grdi": [4, 4]}}], "'grdi'; did you mean 'grid'"),
        (["blind", {"type": "blind"}], "a name or {name, args}"),
        (["blind", "dinosiglip-384"], "itself fused"),
    ],
)
def test_impossible_fusions(encoders: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusedEncoder(encoders=encoders)
