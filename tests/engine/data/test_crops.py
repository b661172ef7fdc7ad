"""Random views: against torchvision's functions, and the laws of what is drawn."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as tv

from fewshot_cli.engine.data.crops import Views, draw_views, viewed
from fewshot_cli.engine.rng import Draws


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def views(n: int, boxes=(0.0, 0.0, 1.0, 1.0), flip=False, colours=(1.0, 1.0, 1.0)) -> Views:
    return Views(torch.tensor([boxes] * n), torch.tensor([flip] * n), torch.tensor([[c] * n for c in colours]))


def test_the_whole_picture_in_its_own_colours_is_itself(images):
    torch.testing.assert_close(viewed(images, views(6)), images, atol=1e-5, rtol=0)


def test_a_flip_is_a_flip(images):
    torch.testing.assert_close(viewed(images, views(6, flip=True)), images.flip(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("box", [(4, 8, 16, 16), (0, 0, 8, 16), (16, 4, 16, 8)])
def test_a_crop_is_torchvisions(images, box):
    left, top, width, height = box
    ours = viewed(images, views(6, tuple(side / 32 for side in box)))
    theirs = tv.resized_crop(
        images, top, left, height, width, [32, 32], interpolation=tv.InterpolationMode.BILINEAR, antialias=False
    )
    inside = slice(3, -3)  # at its edge a crop of ours sees what lies beyond, torchvision's only itself
    torch.testing.assert_close(ours[..., inside, inside], theirs[..., inside, inside], atol=1e-4, rtol=0)


def test_colours_are_torchvisions(images):
    ours = viewed(images, views(6, colours=(1.3, 0.7, 1.4)))
    theirs = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(images, 1.3), 0.7), 1.4)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)  # its weights of grey have fewer digits


def test_every_picture_has_its_own_view(images):
    drawn = draw_views(Draws(0, "test", 0), 6)
    together = viewed(images, drawn)
    for i in range(6):
        alone = Views(drawn.boxes[i : i + 1], drawn.flips[i : i + 1], drawn.colours[:, i : i + 1])
        torch.testing.assert_close(viewed(images[i : i + 1], alone)[0], together[i], atol=1e-6, rtol=0)


def test_what_is_drawn_is_within_bounds_and_repeats():
    drawn = draw_views(Draws(1, "test", 2), 4000)
    left, top, width, height = drawn.boxes.unbind(1)
    assert float(left.min()) >= 0 and float(top.min()) >= 0
    assert float((left + width).max()) <= 1 + 1e-6 and float((top + height).max()) <= 1 + 1e-6
    uncut = (width < 1) & (height < 1)
    shape = (width / height)[uncut].log()
    assert float(shape.abs().max()) <= math.log(4 / 3) + 1e-5
    area = (width * height)[uncut]
    assert float(area.min()) >= 0.08 - 1e-6
    assert abs(float(drawn.flips.double().mean()) - 0.5) < 0.05
    assert float(drawn.colours.min()) >= 0.6 - 1e-6 and float(drawn.colours.max()) <= 1.4 + 1e-6
    assert abs(float(drawn.colours.mean()) - 1) < 0.02
    again = draw_views(Draws(1, "test", 2), 4000)
    assert torch.equal(again.boxes, drawn.boxes) and torch.equal(again.colours, drawn.colours)
