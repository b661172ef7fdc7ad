"""DiffAugment against the published function with known draws, and the laws of drawing."""

import pytest
import torch

from fewshot_cli.engine.data.diff_augment import AugmentDraws, diff_augment, draw, max_shift


@pytest.mark.parametrize("case", ["flip", "noflip"])
def test_diff_augment_is_the_published_function(golden, case):
    vectors, config = golden("pmf")
    coins = vectors[f"aug.{case}.coins"]
    assert coins[0] < config["aug"]["prob"]
    draws = AugmentDraws(
        flip=bool(coins[1] >= 0.5),
        colour=vectors[f"aug.{case}.u_brightness_saturation_contrast"],
        shift=vectors[f"aug.{case}.shift_rows_cols"],
    )
    out = diff_augment(vectors[f"aug.{case}.x"], draws)
    torch.testing.assert_close(out, vectors[f"aug.{case}.out"], rtol=0, atol=1e-6)


def test_without_draws_the_images_stay_as_they_are(golden):
    vectors, _ = golden("pmf")
    assert torch.equal(diff_augment(vectors["aug.off.x"], None), vectors["aug.off.out"])


def test_the_largest_shift_is_the_published_one_halves_rounded_up(golden):
    vectors, _ = golden("pmf")
    for size, shift in vectors["aug.max_shift_by_size"].tolist():
        assert max_shift(size) == shift


def test_draws_stay_in_their_ranges_and_reach_them():
    rng = torch.Generator().manual_seed(0)
    drawn = [draw(torch.zeros(50, 3, 20, 12), rng, probability=1.0) for _ in range(40)]
    colours = torch.cat([draws.colour for draws in drawn], dim=1)
    shifts = torch.cat([draws.shift for draws in drawn], dim=1)
    assert colours.min() >= 0
    assert colours.max() < 1
    assert (shifts.amin(1).tolist(), shifts.amax(1).tolist()) == ([-3, -2], [3, 2])  # rows of 20, columns of 12
    assert {draws.flip for draws in drawn} == {True, False}


def test_a_batch_stays_plain_as_often_as_the_probability_says():
    rng = torch.Generator().manual_seed(0)
    plain = sum(draw(torch.zeros(1, 3, 8, 8), rng, probability=0.7) is None for _ in range(2000)) / 2000
    assert plain == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 2000) ** 0.5)  # four standard errors


def test_the_same_seed_draws_the_same():
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = (diff_augment(images, draw(images, torch.Generator().manual_seed(7), 1.0)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, images)
