import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.trust import label_errors
from fewshot_cli.engine.trust.label_errors import bursts, classes_alike, hurting, nearest, wrong_labels

WAY, SHOTS, DIM = 4, 6, 32


def clusters(spread: float = 0.6, seed: int = 0, way: int = WAY, shots: int = SHOTS):
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(way, DIM, generator=rng)
    labels = torch.arange(way).repeat_interleave(shots)
    return centres[labels] + spread * torch.randn(len(labels), DIM, generator=rng) + 3, labels


@pytest.mark.parametrize("seed", range(5))
def test_flipped_labels_are_named_with_their_class(seed):
    features, truth = clusters(seed=seed)
    given = truth.clone()
    given[2], given[9] = 3, 0
    found = wrong_labels(features, given, WAY)
    assert {(each.row, each.label) for each in found} == {(2, 0), (9, 1)}
    assert all(0.5 < each.probability <= 1 for each in found)
    assert [each.probability for each in found] == sorted((each.probability for each in found), reverse=True)
    assert wrong_labels(features, truth, WAY) == []


def test_no_answer_was_learned_from_the_picture_it_is_about():
    """The first round by definition: with all weights one, a picture's own prototype is made without it."""
    features, labels = clusters()
    x = F.normalize(features.double() - features.double().mean(0), dim=1)
    found = label_errors._cosines_without_itself(x, labels, WAY)
    for row in range(len(x)):
        for label in range(WAY):
            members = [i for i in range(len(x)) if labels[i] == label and i != row]
            assert float(found[row, label]) == pytest.approx(
                10 * float(F.cosine_similarity(x[row], x[members].sum(0), 0))
            )


def test_a_picture_alone_in_its_class_is_not_judged():
    features, labels = clusters()
    labels = torch.cat([labels, torch.tensor([WAY])])
    features = torch.cat([features, features[:1] + 0.01])
    assert WAY * SHOTS not in {each.row for each in wrong_labels(features, labels, WAY + 1)}
    assert wrong_labels(features[:2], torch.tensor([0, 1]), 2) == []


def test_classes_of_one_cluster_are_alike_and_others_are_not():
    features, labels = clusters(seed=3)
    mixed = torch.where(labels == 3, 2, labels)
    rows = (mixed == 2).nonzero().squeeze(1)
    one = features[rows[:SHOTS]].mean(0)
    features[rows] = one + 0.6 * torch.randn(len(rows), DIM, generator=torch.Generator().manual_seed(4))
    (found,) = classes_alike(features, labels, WAY)
    assert (found.first, found.second, found.n) == (2, 3, 2 * SHOTS)
    assert found.share < 0.7


def test_what_hurts_the_others_is_what_learning_without_it_shows():
    features, labels = clusters(spread=1.6, seed=3, shots=4)
    x = label_errors._directions(features)

    def right(rows: list[int]) -> int:
        kept = torch.tensor(rows)
        answers = label_errors._cosines_without_itself(x[kept], labels[kept], WAY).argmax(1)
        return int((answers == labels[kept]).sum())

    every = list(range(len(labels)))
    answers = label_errors._cosines_without_itself(x, labels, WAY).argmax(1) == labels
    expected = {}
    for row in every:
        better = right([i for i in every if i != row]) - (int(answers.sum()) - int(answers[row]))
        if better >= 3:
            expected[row] = better
    found = {each.row: each.better for each in hurting(features, labels, WAY)}
    assert found == expected == {6: 4}


def test_photos_of_one_burst_are_one_group():
    features, _ = clusters(spread=1.0)
    rng = torch.Generator().manual_seed(1)
    twins = features[[3, 3, 10]] + 0.1 * torch.randn(3, DIM, generator=rng)
    assert bursts(torch.cat([features, twins])) == [[3, 24, 25], [10, 26]]
    assert bursts(features) == []


def test_the_nearest_are_named_without_the_picture_itself():
    features, _ = clusters(spread=1.0)
    features = torch.cat([features, features[5:6] + 0.01])
    (first, cosine), *others = nearest(features, 5, 3)
    assert first == 24 and cosine > 0.99 and len(others) == 2
    assert 5 not in [row for row, _ in others]
