import math

import pytest
import torch

from fewshot_cli.engine.trust.expected import (
    SLOPE,
    Measured,
    expected,
    held_out_share,
    measured_slope,
    typical_slope,
)
from fewshot_cli.engine.trust.subsets import content_order, enough_parts, half, one_in, parts

UNEVEN = torch.tensor([0] * 5 + [1] * 2 + [2] + [3] * 25)


@pytest.mark.parametrize("out", [one_in, half])
def test_a_part_lacks_as_many_of_each_class_and_every_image_is_left_out(out):
    missing = out(UNEVEN, 4)
    count = enough_parts(UNEVEN, missing)
    learned, asked = parts(UNEVEN, missing, count, seed=0)
    for some, others in zip(learned, asked, strict=True):
        assert torch.equal(torch.cat([some, others]).sort().values, torch.arange(len(UNEVEN)))
        assert torch.equal(torch.bincount(UNEVEN[others], minlength=4), missing)
    assert set(asked.flatten().tolist()) == set(range(len(UNEVEN))) - {7}
    assert count >= 20


def test_one_image_in_ten_is_left_out_and_none_of_a_lone_one():
    assert one_in(UNEVEN, 4).tolist() == [1, 1, 0, 2]
    assert half(UNEVEN, 4).tolist() == [2, 1, 0, 12]


def test_other_seeds_give_other_parts():
    asked = [parts(UNEVEN, one_in(UNEVEN, 4), 20, seed)[1] for seed in (0, 0, 1)]
    assert torch.equal(asked[0], asked[1]) and not torch.equal(asked[0], asked[2])


def test_every_image_counts_alike_however_often_it_was_asked_about():
    labels = torch.tensor([0, 0, 0, 1, 1])
    images, right = torch.tensor([0, 0, 0, 3]), torch.tensor([True, True, False, False])
    found = held_out_share(right, images, labels, torch.tensor([2, 1]))
    assert found.share == pytest.approx((2 / 3 + 0) / 2)
    assert found.n == 2
    assert found.size == pytest.approx(math.log(2) / 2)
    assert found.full_size == pytest.approx((3 * math.log(3) + 2 * math.log(2)) / 5)


def test_more_images_promise_more_and_less_certainly():
    now = Measured(share=0.7, n=50, size=math.log(4), full_size=math.log(5))
    slope = typical_slope(SLOPE)
    same, five, ten = (expected(now, slope, math.log(images)) for images in (4, 5, 10))
    assert same.mean == 0.7 < five.mean < ten.mean
    assert all(found.low < found.mean < found.high for found in (same, five, ten))
    assert expected(now, slope, math.log(2)).mean == 0.7  # fewer images than were measured are never foretold


def test_the_interval_narrows_with_images_and_stays_between_0_and_1():
    slope = typical_slope(SLOPE)
    wide, narrow = (expected(Measured(0.8, n, 1.0, 1.1), slope, 1.1) for n in (10, 200))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    for share in (0.0, 1.0):
        found = expected(Measured(share, 10, 1.0, 3.0), slope, 3.0)
        assert 0 <= found.low <= found.mean <= found.high <= 1 and found.high - found.low > 0.2


def test_a_steep_curve_is_believed_as_far_as_there_are_images():
    typical = typical_slope(SLOPE)

    def slope(n: int) -> float:
        return measured_slope(Measured(0.8, n, 2.0, 2.1), Measured(0.5, n, 1.3, 2.1), typical).mean

    steep = math.log(0.8 / 0.2) / 0.7
    assert SLOPE < slope(10) < slope(100) < slope(100_000) == pytest.approx(steep, rel=0.02)


def test_where_half_is_as_large_as_most_nothing_is_measured():
    pair = Measured(0.5, 10, 0.0, 0.7)
    assert measured_slope(pair, pair, typical_slope(SLOPE)) == typical_slope(SLOPE)


def test_the_order_of_images_does_not_matter():
    features = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    features[:, :3] = 0  # ties in the first columns
    shuffled = features[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    first = features[content_order(features)]
    assert torch.equal(first, shuffled[content_order(shuffled)])
    rounded = shuffled.half().float()
    assert torch.equal(first.half().float(), rounded[content_order(rounded)])
