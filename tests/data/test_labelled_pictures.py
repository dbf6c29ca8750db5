"""What stage 0 is told of the proxies' pictures, pixel by pixel, and mixtures of such labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ablate.data import DATASETS
from ablate.data.base import UNKNOWN
from ablate.data.mixture import Mixture
from ablate.data.proxies.base import Proxy
from ablate.data.proxies.picture import CLASSES, COLORS
from ablate.data.proxies.scene import Scene
from ablate.data.proxies.textvqa import Signs


def items(name: str, count: int) -> list:
    proxy = DATASETS.get(name)()
    assert isinstance(proxy, Proxy)
    return [proxy.sample_item("train", index)[0] for index in range(count)]


def names(label: np.ndarray, attribute: str) -> set[str]:
    return {CLASSES[attribute][index] for index in np.unique(label) if index != UNKNOWN}


def test_each_pixel_of_a_scene_has_the_colour_that_its_label_says() -> None:
    for item in items("proxy-gqa", 40):
        assert isinstance(item.scene, Scene)
        picture = item.scene.picture
        labels, image = picture.labels(), np.asarray(picture.image())
        for index, color in enumerate(CLASSES["color"]):
            shown = (image == COLORS[color]).all(-1)
            assert np.array_equal(shown, labels["color"] == index)
        assert np.array_equal(labels["color"] == UNKNOWN, labels["shape"] == UNKNOWN)
        assert names(labels["shape"], "shape") == {t.shape for t in item.scene.things.values()}
        assert (labels["letter"] == UNKNOWN).all()


def test_signs_are_labelled_with_their_letters_inside_their_boards() -> None:
    for item in items("proxy-textvqa", 40):
        assert isinstance(item.scene, Signs)
        labels = item.scene.picture.labels()
        assert names(labels["letter"], "letter") == set("".join(item.scene.words.values()))
        assert names(labels["shape"], "shape") == {"sign"}
        assert names(labels["color"], "color") == set(item.scene.words)


def test_nothing_is_told_of_what_is_too_dark() -> None:
    dark = [item.scene.picture for item in items("proxy-vizwiz", 200) if item.scene.dark]
    assert dark
    for picture in dark:
        assert all((label == UNKNOWN).all() for label in picture.labels().values())


def test_a_mixture_has_the_labelled_images_of_its_parts_by_weight(tmp_path: Path) -> None:
    mixed = Mixture(parts={"proxy-vqa": 0.001, "proxy-textvqa": 0.002})
    train = mixed.labelled_images(tmp_path, "train")
    assert len(train) == 20 + 40
    assert train.classes == CLASSES
    assert (train[0][1]["letter"] == UNKNOWN).all()
    assert (train[59][1]["letter"] != UNKNOWN).any()
    assert len(mixed.labelled_images(tmp_path, "validation")) == 2000


def test_labels_of_different_classes_are_not_mixed(tmp_path: Path) -> None:
    mixed = Mixture(parts={"easy-vqa": 1, "proxy-vqa": 1})
    with pytest.raises(ValueError, match=r"'proxy-vqa'.*are not those of 'easy-vqa'"):
        mixed.labelled_images(tmp_path, "train")
