"""Practice tasks as tensors, and what is kept of a domain for validation."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fewshot_cli.engine.data.episode import Pool
from fewshot_cli.engine.data.episode_samplers import Across, Fixed
from fewshot_cli.engine.meta.domain import Domain, parted
from fewshot_cli.engine.meta.settings import Training, Validation, ViewSettings
from fewshot_cli.engine.meta.task_source import kept_apart


def domain(classes: int, images: int, domains: int = 1) -> Domain:
    """Pictures of one colour each: picture i is i everywhere, and so are its features."""
    n = classes * images * domains
    labels = np.tile(np.repeat(np.arange(classes), images), domains)
    of = np.repeat(np.arange(domains), classes * images)
    names = tuple(f"c{i}" for i in range(classes))
    pool = Pool("p", names, labels, of, tuple(f"d{i}" for i in range(domains)), {"n": (0, 1)}, {"s": (0, 2)})
    pictures = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 64, 64)
    return Domain.whole(pool, torch.arange(n, dtype=torch.float32).view(n, 1).expand(n, 4), pictures)


def test_a_task_is_the_episode_as_tensors(vit):
    here, protocol = domain(6, 8), Fixed(way=3, shots=2, queries=3)
    task = here.task(protocol, vit, seed=5, number=2, views=None)
    (session,) = protocol.episode(here.pool, 5, 2).sessions
    assert task.way == 3 and task.support_images.shape == (6, 3, 64, 64)
    assert task.support_features[:, 0].tolist() == session.support.tolist()
    assert task.query_features[:, 0].tolist() == session.query.tolist()
    assert task.support_labels.tolist() == session.support_labels.tolist()
    expected = vit.normalised(here.images[torch.from_numpy(session.query)])
    assert torch.equal(task.query_images, expected)
    assert task.query_labels.tolist() == session.query_labels.tolist()


def test_views_change_the_pictures_and_not_the_features(vit):
    here, protocol = domain(6, 8), Fixed(way=3, shots=2, queries=3)
    plain = here.task(protocol, vit, 0, 0, None)
    varied = here.task(protocol, vit, 0, 0, ViewSettings())
    again = here.task(protocol, vit, 0, 0, ViewSettings())
    assert torch.equal(varied.support_images, again.support_images)
    assert not torch.equal(varied.support_images, plain.support_images)
    assert torch.equal(varied.support_features, plain.support_features)
    untouched = here.task(protocol, vit, 0, 0, ViewSettings(scale=(1, 1), ratio=(1, 1), jitter=0))
    torch.testing.assert_close(untouched.support_images, plain.support_images, rtol=0, atol=1e-3)


def test_a_part_keeps_its_pictures_and_its_groups():
    here = domain(5, 4)
    part = here.of(np.isin(here.pool.labels, [0, 2, 4]), "part")
    assert part.pool.classes == ("c0", "c2", "c4")
    assert part.pool.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert part.rows.tolist() == [*range(4), *range(8, 12), *range(16, 20)]
    assert part.pool.nodes == {"n": (0,)} and part.pool.superclasses == {"s": (0, 1)}


def test_a_large_domain_keeps_classes_apart():
    practised, asked = parted(domain(20, 6), Fixed(way=4, shots=2, queries=2), 0.2, seed=0)
    assert len(practised.pool.classes) == 16 and len(asked.pool.classes) == 4
    assert not set(practised.pool.classes) & set(asked.pool.classes)
    assert practised.pool.name == "p" and asked.pool.name == "p (validation)"
    other = parted(domain(20, 6), Fixed(way=4, shots=2, queries=2), 0.2, seed=1)[1]
    assert set(other.pool.classes) != set(asked.pool.classes)


def test_more_is_kept_where_the_protocol_needs_more():
    practised, asked = parted(domain(10, 6), Fixed(way=5, shots=2, queries=2), 0.2, seed=0)
    assert len(practised.pool.classes) == len(asked.pool.classes) == 5


def test_a_domain_of_few_classes_keeps_images_apart():
    practised, asked = parted(domain(5, 20), Fixed(way=5, shots=3, queries=3), 0.2, seed=0)
    assert practised.pool.classes == asked.pool.classes
    assert not set(practised.rows) & set(asked.rows)
    assert np.bincount(asked.pool.labels).tolist() == [6] * 5  # 4 would be too few for the protocol
    assert len(practised.rows) + len(asked.rows) == 100


def test_split_by_image_all_classes_are_practised_and_asked_about():
    whole, training = domain(20, 10), Training(protocol=Fixed(way=4, shots=1, queries=1))
    by_image = training.model_copy(update={"validation": Validation(split_by="image", share=0.4)})
    (practised,), (asked,) = kept_apart([whole], by_image, seed=0)
    assert practised.pool.classes == asked.pool.classes == whole.pool.classes
    assert (
        np.bincount(practised.pool.labels).tolist() == [6] * 20 and np.bincount(asked.pool.labels).tolist() == [4] * 20
    )
    assert sorted([*practised.rows, *asked.rows]) == list(range(200))
    (apart,), (other,) = kept_apart([whole], training, seed=0)
    assert not set(apart.pool.classes) & set(other.pool.classes)


def test_split_by_image_too_few_images_keep_nothing_apart():
    whole = domain(20, 3)
    assert parted(whole, Fixed(way=4, shots=1, queries=1), 0.2, 0, "class")[1] is not None
    assert parted(whole, Fixed(way=4, shots=1, queries=1), 0.2, 0, "image") == (whole, None)


def test_images_are_kept_of_every_domain_of_a_pool():
    protocol = Across(way=3, shots=2, queries=2)
    practised, asked = parted(domain(3, 10, domains=2), protocol, 0.2, seed=0)
    assert asked is not None
    assert np.bincount(asked.pool.domains).tolist() == [6, 6]
    assert np.bincount(practised.pool.domains).tolist() == [24, 24]


def test_a_domain_too_small_for_both_is_practised_on_whole():
    whole = domain(5, 5)
    practised, asked = parted(whole, Fixed(way=5, shots=2, queries=2), 0.2, seed=0)
    assert asked is None and practised is whole


def test_classes_that_come_step_by_step_are_no_practice():
    with pytest.raises(ValidationError, match="step by step"):
        Training(protocol={"name": "incremental", "base_way": 3, "sessions": 2})
    with pytest.raises(ValidationError, match="from low to high"):
        ViewSettings(scale=(0.5, 0.1))
