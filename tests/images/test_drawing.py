"""Drawn pictures: the same for a seed, different otherwise, and never the same class by its background."""

import random

import numpy as np
import pytest

from fewshot_cli.images.drawing import CLASSES, draw, write_folder
from fewshot_cli.images.sources.class_folders import read_folder


@pytest.mark.parametrize("name", CLASSES)
def test_a_seed_is_a_picture(name):
    random.seed(1)
    first = np.asarray(draw(name, 7, 40))
    random.seed(2)
    assert first.shape == (40, 40, 3)
    assert (first == np.asarray(draw(name, 7, 40))).all()
    assert (first != np.asarray(draw(name, 8, 40))).any()


def test_the_global_generators_stay_as_they_were():
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    draw("cat", 0, 32)
    assert (random.random(), np.random.random()) == expected


def test_write_folder_is_read_back(tmp_path):
    write_folder(tmp_path, CLASSES[:3], per_class=2, seed=4, size=32)
    folder = read_folder(tmp_path)
    assert folder.classes == tuple(sorted(CLASSES[:3]))
    assert len(folder.items) == 6
    assert len({item.path.read_bytes() for item in folder.items}) == 6
