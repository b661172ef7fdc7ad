"""MAMF: its number of tasks against the published table, and that it learns from tasks in turn."""

from itertools import combinations

import pytest
import torch

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.head.linear import class_means, cosine_head
from fewshot_cli.engine.meta.mamf import task_classes, task_count, trained_on_task
from fewshot_cli.engine.train.fine_tune import tune
from fewshot_cli.engine.train.settings import TASK_TUNING, Optim

QUICK = TASK_TUNING.model_copy(update={"optim": Optim(lr=1e-4, steps=0, epochs=1, batch=5)})


def test_the_number_of_tasks_is_the_published_one(golden):
    vectors, config = golden("mamf_k")
    rows = vectors["table"].tolist()
    assert len(rows) == 1091
    assert [task_count(classes, way, config["miss"]) for classes, way, _ in rows] == [count for *_, count in rows]


def test_all_classes_are_one_task_and_nearly_all_at_least_one():
    assert task_count(10, 10) == 1
    assert task_count(10**7, 10**7 - 1) == 1


def test_tasks_are_drawn_from_all_classes_alike():
    tasks = [tuple(sorted(task_classes(5, 2, seed=0, index=i).tolist())) for i in range(1000)]
    counts = [tasks.count(pair) for pair in combinations(range(5), 2)]
    assert sum(counts) == 1000
    assert max(abs(count - 100) for count in counts) < 4 * (1000 * 0.1 * 0.9) ** 0.5  # four standard errors
    assert task_classes(5, 2, seed=0, index=7).tolist() == task_classes(5, 2, seed=0, index=7).tolist()


def test_the_first_task_is_plain_fine_tuning(vit, pictures):
    images, labels = pictures((4, 3, 2), seed=1)
    trained = trained_on_task(vit.params, vit, images, labels, 3, QUICK, Run(seed=5))
    support = Support(images, labels, vit.frozen_features(images), 3)
    expected, _ = tune(vit, support, vit.params, dict, QUICK, Run(seed=5))
    assert trained.keys() == vit.params.keys()
    assert all(torch.equal(trained[name], expected[name]) for name in expected)


def test_a_later_task_goes_on_from_where_the_earlier_one_ended(vit, pictures):
    first = trained_on_task(vit.params, vit, *pictures((4, 3, 2), seed=1), 3, QUICK)
    images, labels = pictures((2, 2), seed=2)
    second = trained_on_task(first, vit, images, labels, 2, QUICK)
    support = Support(images, labels, vit.frozen_features(images, first), 2)
    expected, _ = tune(vit, support, first, dict, QUICK, Run())
    assert any(not torch.equal(first[name], vit.params[name]) for name in first)
    assert all(torch.equal(second[name], expected[name]) for name in expected)


def test_tasks_teach_what_new_images_need(vit, pictures):
    weights = vit.params
    tuning = QUICK.model_copy(update={"optim": Optim(lr=1e-3, steps=0, epochs=2, batch=5)})

    def loss(weights):
        images, labels = pictures((3, 3, 3), seed=8)
        features = vit.frozen_features(images, weights)
        head = cosine_head(class_means(features, labels, 3))
        return torch.nn.functional.cross_entropy(head.logits(features), labels).item()

    for i in range(3):
        weights = trained_on_task(weights, vit, *pictures((3, 3, 3), seed=i), 3, tuning, Run(seed=i))
    assert loss(weights) < 0.9 * loss(vit.params)


def test_the_defaults_are_the_authors():
    optim = TASK_TUNING.optim
    assert (optim.name, optim.lr, optim.epochs, optim.batch) == ("adam", 1e-6, 8, 32)


@pytest.mark.parametrize("subset", [("norm.weight", "norm.bias")])
def test_only_the_named_parameters_are_trained(vit, pictures, subset):
    images, labels = pictures((2, 2), seed=1)
    trained = trained_on_task({name: vit.params[name] for name in subset}, vit, images, labels, 2, QUICK)
    assert tuple(trained) == subset
