"""Base-to-new classes: learned from one half, asked about both, on two tiny towers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_cli.engine.adaptation import Adapted, Run, Support
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.head.linear import cosine_head
from fewshot_cli.engine.model.model import Model, moved_backbone
from fewshot_cli.engine.train.text import with_texts
from fewshot_cli.engine.trust.metrics import harmonic_mean
from fewshot_cli.engine.trust.significance import mean_interval, paired
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs.benchmark.protocols import check_learner, protocols
from fewshot_cli.jobs.benchmark.reproduce import repeat
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, compare
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.meta_recipes import recipe_names
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")
CLASSES = ("cat", "fish", "house", "star", "tree")
ROWS = ("drawn, base", "drawn, new", "drawn, harmonic mean")
QUICK = ("method.tuning.optim.steps=2", "method.tuning.optim.epochs=0", "method.tuning.optim.steps_per_shot=0")
TRAINED = {
    "finetune-clip": QUICK,
    "2sfs": ("method.tuning.optim.steps=5", "method.tuning.optim.steps_per_shot=0"),
    "coop": ("method.steps=2", "method.lr=1"),
    "clip-adapter": ("method.steps=2",),
    "prolip": ("method.steps=2", "method.views=2", "method.lr=0.1"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base") / "drawn"
    write_folder(path, CLASSES, 6, seed=0, size=64)
    return path


@pytest.fixture
def context(towers_file) -> JobContext:
    return JobContext(Source(towers_file, offline=True), CPU, NoCache(), NoProgress(), Processes())


def asked(folder: Path, context: JobContext, output: Path, changes: dict[str, Any], **settings: Any) -> dict[str, Any]:
    facts = {"name": "base-to-new", "shots": 2} | settings
    recipes = {name: load_recipe(name, more, backbone="clip:tiny") for name, more in changes.items()}
    question = ComparisonSettings(tuple(read_datasets(folder)), protocols(facts), 3, 0, (), (str(folder),))
    return compare(recipes, question, context, output)[0].report()


def test_the_harmonic_mean_is_that_of_two_speeds():
    assert harmonic_mean(0.6, 0.3) == pytest.approx(0.4)
    assert harmonic_mean(0.5, 0.0) == harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.7, 0.7) == pytest.approx(0.7)


@pytest.mark.slow
def test_base_new_and_their_harmonic_mean_are_rows(folder, context, tmp_path):
    report = asked(folder, context, tmp_path / "r.json", {"zero-shot": (), "coop": TRAINED["coop"]})
    assert tuple(row["name"] for row in report["rows"]) == ROWS
    assert [row["group"] for row in report["rows"]] == ["base", "new", "harmonic mean"]
    assert [row["beside"] for row in report["rows"]] == [True, True, False]
    for name, rows in report["results"].items():
        base, new, both = (rows[row]["accuracy"] for row in ROWS)
        assert all(abs(12 * share - round(12 * share)) < 1e-4 for share in base + new)  # of 3 x 4 and of 2 x 6 queries
        assert both == pytest.approx([harmonic_mean(*pair) for pair in zip(base, new, strict=True)], abs=1e-6)
        found = report["methods"][name]
        assert found["accuracy"] == pytest.approx(mean_interval(both).mean, abs=1e-6)
        assert found["ci95"] == pytest.approx(mean_interval(both).ci95, abs=1e-6)
        assert found["datasets"]["drawn, new"]["accuracy"] == pytest.approx(mean_interval(new).mean, abs=1e-6)
    over_all = report["pairs"][0]
    of_both = [report["results"][name]["drawn, harmonic mean"]["accuracy"] for name in ("zero-shot", "coop")]
    assert over_all["dataset"] is None and over_all["n"] == 3
    assert over_all["difference"] == pytest.approx(paired(*of_both).mean, abs=1e-6)


def test_more_shots_are_more_rows(folder, context, tmp_path):
    report = asked(folder, context, tmp_path / "r.json", {"zero-shot": ()}, shots=[1, 2], queries=3)
    assert [row["name"] for row in report["rows"]] == [
        f"drawn, {shots}, {group}" for shots in ("1 shot", "2 shots") for group in ("base", "new", "harmonic mean")
    ]
    one, two = (report["results"]["zero-shot"][f"drawn, {shots}, new"]["accuracy"] for shots in ("1 shot", "2 shots"))
    assert one == two  # the same queries, and no image taught it anything


def test_a_run_is_repeated(folder, context, tmp_path):
    asked(folder, context, tmp_path / "r.json", {"coop": TRAINED["coop"]})
    assert repeat(tmp_path / "r.json", (), context).differences == 0
    rows = json.loads((tmp_path / "r.json").read_text())["results"]["coop"]
    assert set(rows) == set(ROWS)


# --- how classes are answered that were only named ----------------------------------------------------------------


def task(clip, pictures) -> tuple[Support, Support, torch.Tensor]:
    """Two classes to learn, two to name, and pictures to ask about."""
    images, labels = pictures((4, 4), 3)
    named = class_texts(("red stripes", "green chequers", "blue rings", "a cat"))
    support = Support(images, labels, clip.frozen_features(images), 2, ("red stripes", "green chequers"))
    nothing = images[:0], labels[:0], torch.empty(0, clip.dim)
    others = with_texts(clip, Support(*nothing, 2, ("blue rings", "a cat")), named[2:])
    return with_texts(clip, support, named[:2]), others, pictures((2, 2, 2), 5)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero-shot", "finetune-clip", "2sfs", "clip-adapter", "prolip"])
def test_others_are_answered_by_what_the_moved_tower_reads(name, clip, pictures):
    support, others, queries = task(clip, pictures)
    learner = load_recipe(name, TRAINED.get(name, ()), backbone="clip:tiny").learner
    learned, named = learner.adapt_and_name(clip, support, others, Run(3))
    alone = learner.adapt(clip, support, Run(3))
    assert torch.equal(Model(clip, learned).logits(queries), Model(clip, alone).logits(queries))
    moved = moved_backbone(clip, alone.delta, alone.graft)
    by_hand = cosine_head(moved.class_vectors(others.texts), 100.0)
    torch.testing.assert_close(Model(clip, named).logits(queries), by_hand.logits(moved.frozen_features(queries)))
    if name in ("finetune-clip", "2sfs"):  # the text tower was trained along
        before = Model(clip, Adapted(alone.delta, cosine_head(others.vectors, 100.0), alone.graft)).logits(queries)
        assert not torch.allclose(before, Model(clip, named).logits(queries))


def test_coop_puts_its_words_around_the_other_names(clip, pictures):
    support, others, queries = task(clip, pictures)
    learner = load_recipe("coop", TRAINED["coop"], backbone="clip:tiny").learner
    learned, named = learner.adapt_and_name(clip, support, others, Run(3))
    _, again = learner.adapt_and_name(clip, support, support, Run(3))
    torch.testing.assert_close(learned.head.weight, again.head.weight)
    plain = load_recipe("coop", ("method.steps=0",), backbone="clip:tiny").learner
    _, untrained = plain.adapt_and_name(clip, support, others, Run(3))
    torch.testing.assert_close(untrained.head.weight, cosine_head(others.vectors, 100.0).weight, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(named.head.weight, untrained.head.weight)
    assert Model(clip, named).logits(queries).shape == (6, 2)


def test_what_learns_class_vectors_is_refused():
    (protocol,) = protocols({"name": "base-to-new"})
    by_name = {name for name in recipe_names() if _answers(name, protocol)}
    assert by_name >= {"zero-shot", "coop", "coprompt", "clip-adapter", "prolip", "2sfs", "clip-lora", "saft-clip"}
    assert "finetune-clip" in by_name
    assert not by_name & {"ridge", "gda", "lp++", "taskres", "tip-adapter", "tip-adapter-f", "cross-modal", "bitfit"}
    for name, changes in (("coop", ("method.per_class=true",)), ("lora", ())):
        with pytest.raises(FewshotError, match="can't answer classes of which it has only the names"):
            check_learner(name, load_recipe(name, changes, backbone="clip:tiny").learner, protocol)
    moved = load_recipe("bitfit", ("head.name=zero-shot",), backbone="clip:tiny")
    check_learner("bitfit", moved.learner, protocol)


def _answers(name: str, protocol: Any) -> bool:
    try:
        check_learner(name, load_recipe(name).learner, protocol)
    except FewshotError:
        return False
    return True
