from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from encoder_contract import EncoderContract, noise_image
from timm.data import create_transform, resolve_data_config

from ablate.components.checkpoints import CheckpointError
from ablate.components.encoders import ENCODERS, BlindEncoder, ConvNet, TimmViT
from ablate.components.encoders.image_transform import ImageTransform

SMALL = {"patch_size": 14, "embed_dim": 32, "depth": 3, "num_heads": 2}


class TestTinyViT(EncoderContract):
    build = staticmethod(TimmViT)


class TestRegisterTokens(EncoderContract):
    """Class and register tokens in front, a size that the patch does not divide."""

    @staticmethod
    def build() -> TimmViT:
        args = {"embed_dim": 32, "depth": 3, "num_heads": 2}
        return TimmViT(
            model="vit_small_patch14_reg4_dinov2", image_size=60, model_args=args, resize="crop"
        )

    def test_grid_is_floored(self) -> None:
        assert self.build().grid == (4, 4)


class TestConvNet(EncoderContract):
    build = staticmethod(ConvNet)

    @pytest.mark.parametrize(("patch_size", "grid"), [(8, 8), (16, 4), (32, 2)])
    def test_the_grid_is_that_of_its_patches(self, patch_size: int, grid: int) -> None:
        encoder = ConvNet(patch_size=patch_size, embed_dim=32, stem_dim=8)
        assert encoder.grid == (grid, grid)
        assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, grid * grid, 32)

    def test_features_tell_where_they_are(self) -> None:
        """On an image without edges or content, interior patches differ by their place alone."""
        features = ConvNet(patch_size=8, embed_dim=32, stem_dim=8).eval()(torch.zeros(1, 3, 64, 64))
        interior = features.view(8, 8, 32)[2:6, 2:6].reshape(16, 32)
        assert (torch.pdist(interior) > 0.1).all()

    @pytest.mark.parametrize(
        "wrong", [{"patch_size": 4}, {"patch_size": 12}, {"patch_size": 128}, {"embed_dim": 30}]
    )
    def test_sizes_that_cannot_be_are_refused(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="must be"):
            ConvNet(**wrong)


class TestBlind(EncoderContract):
    build = staticmethod(BlindEncoder)
    sees = False

    def test_its_grid_is_that_of_the_tiny_transformer(self) -> None:
        blind, tiny = BlindEncoder(), TimmViT()
        assert (blind.grid, blind.embed_dim) == (tiny.grid, tiny.embed_dim)
        assert blind.image_size == tiny.image_size

    def test_a_grid_of_its_own(self) -> None:
        encoder = BlindEncoder(grid=[2, 5], embed_dim=7)
        assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 10, 7)

    @pytest.mark.parametrize("grid", [[8], [0, 3]])
    def test_a_bad_grid_is_refused(self, grid: list[int]) -> None:
        with pytest.raises(ValueError, match="rows, columns"):
            BlindEncoder(grid=grid)


def test_names() -> None:
    assert ENCODERS.get("timm") is TimmViT
    assert ENCODERS.get("blind") is BlindEncoder


class TestBlocks:
    @pytest.fixture
    def reference(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return timm.create_model("vit_small_patch14_reg4_dinov2", img_size=56, **SMALL).eval()

    @pytest.fixture
    def file(self, reference: torch.nn.Module, tmp_path: Path) -> Path:
        path = tmp_path / "vit.pth"
        torch.save(reference.state_dict(), path)
        return path

    def encoder(self, file: Path, **args: object) -> TimmViT:
        return TimmViT(
            model="vit_small_patch14_reg4_dinov2",
            image_size=56,
            weights=str(file),
            model_args=SMALL,
            **args,
        )

    @pytest.mark.parametrize("block", [0, 1, 2, -1, -2])
    def test_features_are_timms_intermediate_ones(
        self, reference: torch.nn.Module, file: Path, block: int
    ) -> None:
        pixels = torch.randn(2, 3, 56, 56)
        expected = reference.get_intermediate_layers(pixels, n={block % 3}, norm=False)[0]
        assert torch.equal(self.encoder(file, block=block)(pixels), expected)

    def test_later_blocks_and_head_are_gone(self, reference: torch.nn.Module, file: Path) -> None:
        kept = {n for n, _ in self.encoder(file).vit.named_parameters()}
        all_names = {n for n, _ in reference.named_parameters()}
        after = {n for n in all_names if n.startswith(("blocks.2.", "norm.", "head."))}
        assert kept == all_names - after

    @pytest.mark.parametrize("block", [3, -4])
    def test_no_such_block(self, file: Path, block: int) -> None:
        with pytest.raises(ValueError, match=f"no block {block}; it has 3"):
            self.encoder(file, block=block)

    def test_weights_of_another_image_size_are_interpolated(self, file: Path) -> None:
        encoder = TimmViT(
            model="vit_small_patch14_reg4_dinov2",
            image_size=84,
            weights=str(file),
            model_args=SMALL,
        )
        assert encoder.grid == (6, 6)
        assert encoder(torch.randn(1, 3, 84, 84)).shape == (1, 36, 32)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("blocks.1.mlp.fc1.weight", None, r"1 missing: blocks\.1\.mlp\.fc1\.weight"),
            ("blocks.3.norm1.weight", torch.ones(32), r"1 unknown: blocks\.3\.norm1\.weight"),
            ("patch_embed.proj.bias", torch.full((32,), torch.nan), r"NaN.*patch_embed\.proj"),
        ],
    )
    def test_a_file_that_does_not_fit_is_refused(
        self, file: Path, key: str, value: torch.Tensor | None, message: str
    ) -> None:
        weights = torch.load(file)
        weights.pop(key, None)
        torch.save(weights if value is None else {**weights, key: value}, file)
        with pytest.raises(CheckpointError, match=message):
            self.encoder(file)

    def test_a_file_is_not_read_on_meta(self, file: Path) -> None:
        file.write_bytes(b"")
        with torch.device("meta"):
            assert self.encoder(file).grid == (4, 4)


class TestErrors:
    def test_unknown_model_names_near_ones(self) -> None:
        with pytest.raises(ValueError, match="vit_tiny_patch16_224"):
            TimmViT(model="vit_tiny_patch16_225")

    def test_a_convolutional_network_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not a plain vision transformer"):
            TimmViT(model="resnet18")

    def test_weights_that_do_not_exist(self) -> None:
        with pytest.raises(ValueError, match="no such file"):
            TimmViT(weights="nowhere.pth")

    def test_the_tiny_transformer_has_no_published_weights(self) -> None:
        with pytest.raises(ValueError, match="no published weights"):
            TimmViT(weights="pretrained")

    def test_image_size_is_set_in_one_place(self) -> None:
        with pytest.raises(ValueError, match="image_size"):
            TimmViT(model_args={"img_size": 32})

    def test_pixels_of_another_size(self) -> None:
        with pytest.raises(ValueError, match="64, 64"):
            TimmViT()(torch.zeros(1, 3, 32, 32))

    def test_published_weights_are_not_fetched_on_meta(self) -> None:
        with torch.device("meta"):
            encoder = TimmViT(model="vit_large_patch14_clip_336.openai", weights="pretrained")
        assert encoder.grid == (24, 24)


class TestTransform:
    SIZES = ((90, 70), (70, 91), (64, 64), (500, 333), (65, 64), (30, 45))

    @pytest.mark.parametrize("resize", ["crop", "naive"])
    @pytest.mark.parametrize(
        "model",
        [
            "vit_large_patch14_clip_224.openai",
            "vit_so400m_patch14_siglip_224",
            "vit_large_patch16_224.augreg_in21k_ft_in1k",
        ],
    )
    def test_equals_timms_own(self, model: str, resize: str) -> None:
        with torch.device("meta"):
            encoder = TimmViT(model=model, resize=resize)
        config = resolve_data_config(pretrained_cfg=encoder.vit.pretrained_cfg)
        config |= {"crop_mode": "center"} if resize == "crop" else {"crop_mode": "squash"}
        if resize == "naive":
            config["crop_pct"] = 1.0
        reference = create_transform(**config, is_training=False)
        for number, size in enumerate(((224, 224), *self.SIZES)):
            image = noise_image(number, *size)
            torch.testing.assert_close(encoder.transform(image), reference(image))

    @pytest.mark.parametrize("size", SIZES)
    def test_letterbox_keeps_the_whole_image_on_the_mean_colour(
        self, size: tuple[int, int]
    ) -> None:
        mean = (0.2, 0.4, 0.6)
        pad = ImageTransform(max(size), "letterbox", mean, (1.0, 1.0, 1.0))
        image = noise_image(0, *size)
        pixels = pad(image)
        left, top = ((max(size) - side) // 2 for side in size)
        inside = pixels[:, top : top + size[1], left : left + size[0]]
        whole = torch.stack([torch.tensor(list(band.tobytes())) for band in image.split()])
        expected = whole.view(3, size[1], size[0]) / 255 - torch.tensor(mean).view(3, 1, 1)
        torch.testing.assert_close(inside, expected)
        border = pixels.clone()
        border[:, top : top + size[1], left : left + size[0]] = 0
        assert border.abs().max() < 1 / 255

    def test_unknown_strategies_are_refused(self) -> None:
        with pytest.raises(ValueError, match="naive, crop, letterbox"):
            TimmViT(resize="stretch")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="bicubic"):
            ImageTransform(8, "naive", (0, 0, 0), (1, 1, 1), interpolation="cubic")
