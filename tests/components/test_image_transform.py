"""The transform's arithmetic, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ablate.components.encoders.image_transform import ImageTransform

Triple = tuple[float, float, float]
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("statistics", [CLIP, IMAGENET, HALF])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("size", [16, 33])
def test_normalises_as_torch_would(statistics: tuple[Triple, Triple], mode: str, size: int) -> None:
    pixels = np.arange(size * size * 3, dtype=np.uint32).reshape(size, size, 3) % 256
    image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    mean, std = statistics
    transform = ImageTransform(size, "naive", mean, std)
    found = transform(image)
    plain = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
    plain = (plain - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert found.is_contiguous()
    assert torch.equal(found, plain)
    batch = torch.full((3, 3, size, size), -1.0)
    transform.write(image, batch[1])
    assert torch.equal(batch[1], plain)
    assert (batch[::2] == -1).all()
