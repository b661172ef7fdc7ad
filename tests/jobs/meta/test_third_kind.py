"""A way of meta-tuning that moves no weights, written here: no job knows of it, and each works with it."""

import signal
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.data.episode_samplers import Fixed
from fewshot_cli.engine.head.linear import Head, typical_norm
from fewshot_cli.engine.head.ridge import regression
from fewshot_cli.engine.meta.episodes import EpisodeDescent, EpisodeTrainer
from fewshot_cli.engine.meta.loop import Practice
from fewshot_cli.engine.meta.practice_task import MetaLoss
from fewshot_cli.engine.params import gradient_of
from fewshot_cli.engine.train.optimiser import Group
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import read_bank
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.formats.kinds import metadata_of
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs.benchmark.protocols import protocols
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, compare
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.meta.results import MetaTuningData, Output
from fewshot_cli.jobs.meta.tune import meta_tune
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share.describe import draw, inspect
from fewshot_cli.meta_recipes import MetaRecipe
from fewshot_cli.methods.from_bank import BANK_KINDS, BankContent
from fewshot_cli.methods.meta import MetaMethod, SavedBank
from fewshot_cli.methods.ridge import Ridge
from fewshot_cli.recipes import load_recipe
from fewshot_cli.reports.terminal.bank import bank_shown, summary
from fewshot_cli.storage.feature_cache import NoCache

STRENGTH = "log_strength"


def answered(log_strength: Tensor, task: Any) -> Tensor:
    """Ridge on the frozen features, differentiable in its strength."""
    norm = typical_norm(task.support_features)
    x, y = task.support_features.double() / norm, F.one_hot(task.support_labels, task.way).double()
    weight = regression(x - x.mean(0), y - y.mean(0), log_strength.double().exp())
    return 10 * ((task.query_features.double() / norm - x.mean(0)) @ weight.T + y.mean(0))


class LearnedStrength(MetaMethod):
    """R2-D2's idea in small: the strength of ridge is learned over episodes."""

    name: Literal["ridge-strength"] = "ridge-strength"
    lr: float = 0.5

    def start(self, backbone, seed):
        return {STRENGTH: torch.zeros(())}

    def trainer(self, bank, source, training):
        def step(bank):
            def of_task(task, tasks, rng, share):
                logits = answered(bank[STRENGTH], task)
                loss = F.cross_entropy(logits, task.query_labels)
                (share * loss).backward()
                accuracy = (logits.argmax(1) == task.query_labels).double().mean()
                return MetaLoss(loss.detach(), accuracy, {"query_ce": loss.detach()})

            return of_task

        groups = (Group((STRENGTH,), "adam", self.lr),)
        how = EpisodeDescent(groups, step, compared=lambda bank: gradient_of(bank[STRENGTH]).reshape(1))
        return EpisodeTrainer(bank, source, training, how)

    def learner(self, bank, passes, tasks):
        return lambda task: answered(bank[STRENGTH], task)

    def saved_bank(self, bank, backbone, tasks):
        return SavedBank("ridge strength", tensors={STRENGTH: bank[STRENGTH]}, settings={"scale": 10.0})


class StrengthContent(BankContent):
    def __init__(self, strength: float, scale: float) -> None:
        self.strength, self.scale = strength, scale

    @classmethod
    def of(cls, kept, backbone):
        if STRENGTH not in kept.tensors:
            raise ValueError("it has no strength")
        return cls(float(kept.tensors[STRENGTH].exp()), kept.settings["scale"])

    def learner(self, learner, density):
        if not isinstance(learner, Ridge):
            raise FewshotError("A bank of a strength is for ridge.", "Give --recipe ridge.")
        return Ridge(strength=self.strength, scale=self.scale)


class StrengthRecipe(MetaRecipe):
    method: LearnedStrength


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setitem(BANK_KINDS, "ridge strength", StrengthContent)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("day", "night")):
        write_folder(folder / name, ("cat", "fish", "house", "star", "tree"), 10, seed=seed, size=64)
    return folder


@pytest.fixture
def tuned(source, sets, tmp_path):
    """Meta-tunes the strength for a few tasks; gives the bank's path and the report."""

    def tuned(name: str = "x.bank", resume: bool = False) -> tuple[Path, Any]:
        training = {"protocol": Fixed(way=3, shots=2, queries=2), "epochs": 2, "episodes": 5}
        training["validation"] = {"episodes": 2}
        recipe = StrengthRecipe(backbone="test_vit", image_size=64, method=LearnedStrength(), training=training)
        context = JobContext(source, torch.device("cpu"), NoCache(), NoProgress())
        path = tmp_path / name
        return path, meta_tune(
            recipe, MetaTuningData(tuple(read_datasets(sets))), Output(path, resume=resume), 0, context
        )

    return tuned


@pytest.mark.slow
def test_its_bank_is_written_read_and_told_of(tuned, known, tmp_path):
    path, report = tuned()
    bank = read_bank(path)
    assert bank.header.kind == "ridge strength" and bank.header.settings == {"scale": 10.0}
    assert bank.gates is None and len(bank.delta) == 0 and bank.header.shapes == {}
    assert float(bank.tensors[STRENGTH]) != 0
    assert metadata_of(path)["version"] == "2"
    assert set(report.datasets) == {"day (validation)", "night (validation)"}
    warn = inspect(path)
    assert warn.tensors == {STRENGTH: ()} and warn.layers == () and warn.settings == {"scale": 10.0}
    assert "ridge strength: 1 tensor and no change" in summary(warn)
    assert bank_shown(warn)
    with pytest.raises(FewshotError, match="moves no weights"):
        draw(warn, tmp_path / "x.svg")


@pytest.mark.slow
def test_adapt_and_eval_begin_from_it(tuned, known, learn, drawn, sets, source, tmp_path):
    path, _ = tuned()
    strength = float(read_bank(path).tensors[STRENGTH].exp())
    report = learn(drawn, tmp_path / "x.fewshot", "ridge", bank=path)
    plain = learn(drawn, tmp_path / "plain.fewshot", "ridge", f"method.strength={strength}", "method.scale=10")
    heads = [read_delta_file(tmp_path / f"{name}.fewshot").head for name in ("x", "plain")]
    assert isinstance(heads[0], Head) and torch.equal(heads[0].weight, heads[1].weight)
    assert report["bank"]["digest"] == read_bank(path).digest and plain["bank"] is None
    assert report["expected_accuracy"]["how"].startswith("images of each class left out in turn")
    question = ComparisonSettings(
        tuple(read_datasets(sets / "day")),
        protocols({"name": "fixed", "way": 3, "shots": 2, "queries": 3}),
        2,
        0,
        (),
        (str(sets),),
    )
    context = JobContext(source, torch.device("cpu"), NoCache(), NoProgress())
    recipes = {
        "mine": load_recipe("ridge", bank=str(path)),
        "ridge": load_recipe("ridge", backbone="test_vit", image_size=64),
    }
    found = compare(recipes, question, context, tmp_path / "run.json")[0].report()["results"]
    assert found["mine"]["day"]["nll"] != found["ridge"]["day"]["nll"]


@pytest.mark.slow
def test_it_stops_and_goes_on_to_the_same_bank(tuned, known, monkeypatch):
    straight, _ = tuned("straight.bank")
    advance = Practice.advance

    def stopped(self: Practice) -> None:
        if self.step == 7:
            monkeypatch.setattr(Practice, "advance", advance)
            signal.raise_signal(signal.SIGTERM)
        advance(self)

    monkeypatch.setattr(Practice, "advance", stopped)
    with pytest.raises(KeyboardInterrupt):
        tuned("stopped.bank")
    path, _ = tuned("stopped.bank", resume=True)
    assert path.read_bytes() == straight.read_bytes()


@pytest.mark.slow
def test_what_does_not_fit_is_refused(tuned, known, learn, drawn, tmp_path, monkeypatch):
    path, _ = tuned()
    with pytest.raises(FewshotError, match="for ridge"):
        learn(drawn, tmp_path / "x.fewshot", "protonet", bank=path)
    with pytest.raises(FewshotError, match="density would do nothing"):
        learn(drawn, tmp_path / "x.fewshot", "ridge", bank=path, density=0.5)
    monkeypatch.setattr(StrengthContent, "of", classmethod(lambda cls, kept, backbone: int("none")))
    with pytest.raises(FewshotError, match="is damaged"):
        learn(drawn, tmp_path / "x.fewshot", "ridge", bank=path)
    monkeypatch.delitem(BANK_KINDS, "ridge strength")
    with pytest.raises(FewshotError, match="of kind 'ridge strength'"):
        learn(drawn, tmp_path / "x.fewshot", "ridge", bank=path)
