"""What recipes would cost: as many images and steps as training sees, bytes as files have, and nothing written."""

import pytest
import torch

from fewshot_cli.engine.adaptation import Support
from fewshot_cli.engine.train import fine_tune
from fewshot_cli.engine.train.settings import Optim
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.classify.held_out import Adaptation, held_out
from fewshot_cli.jobs.plan import training
from fewshot_cli.jobs.plan.memory import PeakMemory
from fewshot_cli.jobs.plan.plan import plan
from fewshot_cli.jobs.plan.training import TrainingCost, training_cost, trial
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.recipes import load_recipe
from tests.jobs.conftest import context

TINY = {"backbone": "test_vit", "image_size": 64}


def recipe(name: str, *changes: str):
    return load_recipe(name, changes, **TINY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ridge", "protonet", "logistic", "lora", "saft", "norms", "tsa", "bitfit-ridge"])
def test_a_file_has_about_as_many_bytes_as_planned(name, drawn, source, tmp_path, learn):
    few = ("method.tuning.optim.steps=2",) if name in ("lora", "saft", "norms", "tsa", "bitfit-ridge") else ()
    few += ("method.tuning.optim.epochs=0",) if few else ()
    (planned,) = plan(drawn, {name: recipe(name, *few)}, context(source)).candidates
    learn(drawn, tmp_path / "x.fewshot", name, *few, values="float16")
    truth = (tmp_path / "x.fewshot").stat().st_size
    assert 0.7 * truth < planned.bytes < 1.3 * truth
    assert planned.seconds > 0
    assert planned.memory > 1e6


def test_nothing_is_written(drawn, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(drawn.rglob("*"))
    result = plan(drawn, {"ridge": recipe("ridge"), "norms": recipe("norms")}, context(source))
    assert [one.recipe for one in result.candidates] == ["ridge", "norms"]
    assert result.report()["candidates"][0].keys() == {"recipe", "backbone", "seconds", "memory", "bytes"}
    assert not list(tmp_path.iterdir())
    assert sorted(drawn.rglob("*")) == before


@pytest.mark.parametrize("optim", [Optim(steps=3, batch=4), Optim(steps=1, epochs=2.0, batch=5), Optim(steps=2)])
@pytest.mark.parametrize("folds", [2, 5])
def test_as_many_images_go_through_as_are_paid_for(optim, folds, easy, vit, monkeypatch):
    seen = []
    held = fine_tune._held
    monkeypatch.setattr(
        fine_tune, "_held", lambda support, backbone: seen.append(len(support)) or held(support, backbone)
    )

    def counted(loss, start, optim, *args, **kwargs):
        seen[-1] = optim.steps * min(batch or seen[-1], seen[-1])
        return start

    batch = optim.batch
    monkeypatch.setattr(fine_tune, "fit", counted)
    support = easy(vit, (5, 5, 5))
    learner = load_recipe("finetune", **TINY).learner
    learner = learner.model_copy(update={"tuning": learner.tuning.model_copy(update={"optim": optim})})
    adaptation = Adaptation(learner, vit, support, seed=0)
    adaptation.learned()
    held_out(adaptation, folds, NoProgress())
    cost = TrainingCost(optim, fixed=0.0, image=1.0, frozen=0.0)
    assert cost.with_estimate(support, folds) == sum(seen)


def test_a_class_with_one_image_each_is_trained_once(easy, vit):
    support = easy(vit, (1, 1, 1))
    cost = TrainingCost(Optim(steps=4), fixed=0.5, image=1.0, frozen=1.0)
    assert cost.with_estimate(support, 5) == cost.of_one(support) == 0.5 + 4 * 3


def test_a_trial_makes_few_steps_whatever_the_recipe(easy, vit, monkeypatch):
    steps = []
    trial(recipe("saft").learner, vit, easy(vit), 3, lambda step, steps_, loss: steps.append((step, steps_)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    cost = training_cost(recipe("bitfit-ridge").learner, vit, easy(vit))
    assert cost.image > 0
    assert cost.frozen > 0
    with pytest.raises(FewshotError, match="can't be told"):
        training_cost(recipe("ridge").learner, vit, easy(vit))


@pytest.mark.slow
def test_training_all_images_at_once_takes_memory_for_all(source, tmp_path):
    for shots in (4, 40):
        write_folder(tmp_path / str(shots), ("cat", "house"), shots, seed=0, size=64)
    few, many = (
        plan(tmp_path / str(shots), {"pmf": recipe("pmf")}, context(source)).candidates[0].memory for shots in (4, 40)
    )
    assert many > few


def test_peak_memory_is_what_tensors_held_at_once():
    kept = torch.ones(100)
    with PeakMemory() as work:
        first = torch.ones(1000)  # 4,000 bytes
        second = first + 1
        first.view(10, 100).add_(1)  # no memory of its own
        del first
        third = second * 2
        kept.add_(1)
    assert work.peak == 8000
    assert work.held == 8000
    assert len(third) == len(second)


def test_gradients_are_in_the_peak():
    weights = torch.ones(1000, requires_grad=True)
    with PeakMemory() as work:
        (weights * weights).sum().backward()
    assert 4000 < work.peak < 40_000


def test_nothing_of_the_support_set_is_looked_at(easy, vit):
    class Unseeable:
        def __len__(self):
            return 12

        def __getitem__(self, indices):
            raise AssertionError

    support = easy(vit)
    blind = Support(Unseeable(), support.labels, support.features, support.way)
    assert training.training_seconds(recipe("norms").learner, vit, blind, 5) > 0
