import torch

from fewshot_cli.engine.defaults import RIDGE_STRENGTH
from fewshot_cli.engine.head import active_learning
from fewshot_cli.engine.head.active_learning import ALIKE, worthiest_labels
from fewshot_cli.engine.head.linear import typical_norm


def task(n: int = 12, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    known, pool = torch.randn(6, 8, generator=rng), torch.randn(n, 8, generator=rng)
    return known, pool, torch.randn(n, 3, generator=rng).softmax(1)


def worths(k, probabilities):
    unsure = 1 - probabilities.double().square().sum(1)
    return unsure * (unsure[:, None] * k.square()).sum(0) / (1 + k.diagonal())


def test_each_is_chosen_as_if_those_before_had_their_labels():
    known, pool, probabilities = task()
    norm, mean = typical_norm(known), torch.cat([known, pool]).double().mean(0)
    x, u = (known.double() - mean) / norm, (pool.double() - mean) / norm
    left = list(range(len(pool)))
    start = u @ torch.linalg.inv(x.T @ x + RIDGE_STRENGTH * torch.eye(8).double()) @ u.T
    correlated = start.square() > ALIKE**2 * torch.outer(start.diagonal(), start.diagonal())
    for lesson in worthiest_labels(known, pool, probabilities, len(pool)):
        k = u @ torch.linalg.inv(x.T @ x + RIDGE_STRENGTH * torch.eye(8).double()) @ u.T
        expected = worths(k, probabilities)
        best = max(left, key=lambda row: float(expected[row]))
        assert lesson.row == best
        assert abs(lesson.worth - float(expected[best])) < 1e-9 * float(expected[best])
        assert lesson.alike == int(correlated[best].sum()) - 1
        left.remove(best)
        x = torch.cat([x, u[best : best + 1]])
    assert not left


def test_twins_are_not_asked_about_one_after_the_other():
    known, pool, probabilities = task()
    first = worthiest_labels(known, pool, probabilities, 1)[0]
    twice, same = torch.cat([pool, pool[first.row : first.row + 1]]), [*range(len(pool)), first.row]
    chosen = [lesson.row for lesson in worthiest_labels(known, twice, probabilities[same], 2)]
    assert len({first.row, len(pool)} & set(chosen)) == 1


def test_where_the_answer_is_sure_a_label_teaches_nothing():
    known, pool, probabilities = task()
    probabilities[3] = torch.tensor([1.0, 0.0, 0.0])
    chosen = worthiest_labels(known, pool, probabilities, len(pool))
    assert chosen[-1].row == 3 and chosen[-1].worth == 0


def test_of_many_others_some_are_enough(monkeypatch):
    known, pool, probabilities = task(300)
    whole = [lesson.row for lesson in worthiest_labels(known, pool, probabilities, 20)]
    monkeypatch.setattr(active_learning, "MOST_OTHERS", 150)
    some = [lesson.row for lesson in worthiest_labels(known, pool, probabilities, 20)]
    assert len(set(whole) & set(some)) >= 12 and len(set(some)) == 20


def test_more_than_there_are_is_all():
    known, pool, probabilities = task(3)
    assert sorted(lesson.row for lesson in worthiest_labels(known, pool, probabilities, 9)) == [0, 1, 2]
