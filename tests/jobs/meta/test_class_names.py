"""Meta-tuning on two towers by the names of classes: names.csv and templates count, and the bank moves both towers."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fewshot_cli.cli.evaluate_settings import recipes_asked
from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.data.episode_samplers import Fixed
from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.meta.loop import Practice
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import read_bank
from fewshot_cli.formats.checkpoint import checkpoint_path
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.initialisation import Starts
from fewshot_cli.jobs.meta.results import MetaTuningData, Output
from fewshot_cli.jobs.meta.tune import meta_tune
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.meta_recipes import load_meta_recipe
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import FeatureCache

CPU = torch.device("cpu")
QUICK = (
    "training.protocol={name: fixed, way: 2, shots: 1, queries: 2}",
    "training.epochs=2",
    "training.validation.episodes=1",
    "method.way=2",
    "method.tasks=2",
    "method.tuning.optim={name: adam, lr: 1e-3, steps: 1, epochs: 0, batch: 4}",
)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_folder(folder / "day", ("cat", "fish", "house", "star"), 5, seed=0, size=64)
    return folder / "day"


@pytest.fixture
def tuned(towers_file, tmp_path):
    """Meta-tunes `mamf-clip` on a folder for two tasks; gives the bank's path."""

    def run(folder: Path, *changes: str, name: str = "x", resume: bool = False) -> Path:
        recipe = load_meta_recipe("mamf-clip", [*QUICK, *changes], backbone="clip:tiny")
        output = Output(tmp_path / f"{name}.bank", "float32", None, resume)
        context = JobContext(Source(towers_file, offline=True), CPU, FeatureCache(), NoProgress(), Processes())
        meta_tune(recipe, MetaTuningData(tuple(read_datasets(folder)), (), (str(folder),)), output, 0, context)
        return output.path

    return run


@pytest.fixture
def stopped(monkeypatch):
    """Has the next run stop before its second task, as Ctrl-C does."""
    advance = Practice.advance

    def until_the_second(self: Practice) -> None:
        if self.step == 1:
            raise KeyboardInterrupt
        advance(self)

    @contextmanager
    def stop() -> Iterator[None]:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Practice, "advance", until_the_second)
            yield

    return stop


def change(path: Path, part: str = "text.") -> torch.Tensor:
    """What a bank does to one tower."""
    bank = read_bank(path)
    sizes = [torch.Size(shape).numel() for shape in bank.header.shapes.values()]
    named = zip(bank.header.shapes, torch.split(bank.delta, sizes), strict=True)
    return torch.cat([values for name, values in named if name.startswith(part)])


@pytest.mark.slow
def test_the_bank_moves_both_towers_and_classifiers_begin_there(tuned, drawings, towers_file):
    path = tuned(drawings)
    assert change(path, "text.").abs().max() > 0 and change(path, "visual.").abs().max() > 0
    source = Source(towers_file, offline=True)
    start = Starts(source, CPU).of(load_recipe("zero-shot", (), bank=str(path)))
    base = load_backbone("clip:tiny", source, None, CPU)
    texts = class_texts(("cat", "fish"))
    assert (start.backbone.class_vectors(texts) - base.class_vectors(texts)).abs().max() > 1e-3


@pytest.mark.slow
def test_names_csv_templates_and_fresh_heads_lead_to_other_banks(tuned, drawings, tmp_path):
    plain = change(tuned(drawings))
    assert plain.equal(change(tuned(drawings, name="again")))
    described = tmp_path / "day"
    shutil.copytree(drawings, described)
    (described / "names.csv").write_text("cat,an animal that purrs\n")
    others = [
        change(tuned(described, name="described")),
        change(tuned(drawings, "template=a drawing of a {}", name="template")),
        change(tuned(drawings, "method.heads=fresh", name="fresh")),
    ]
    assert all((other - plain).abs().max() > 1e-4 for other in others)


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_names(tuned, drawings, tmp_path, stopped):
    described = tmp_path / "day"
    shutil.copytree(drawings, described)
    (described / "names.csv").write_text("cat,an animal that purrs\n")
    with stopped():
        tuned(described)
    assert checkpoint_path(tmp_path / "x.bank").exists()
    (described / "names.csv").write_text("cat,an animal that barks\n")
    with pytest.raises(FewshotError, match=r"another names\.cat"):
        tuned(described, resume=True)


@pytest.mark.slow
def test_the_learned_scale_is_in_the_bank_and_the_next_task_begins_there(tuned, drawings, towers_file, stopped):
    learned = "method.tuning.scale=learned"
    whole = read_bank(tuned(drawings, learned, name="whole"))
    with stopped():
        tuned(drawings, learned)
    path = tuned(drawings, learned, resume=True)
    bank = read_bank(path)
    assert bank.digest == whole.digest
    assert bank.tensors.keys() == {"logit_scale"} and bank.tensors["logit_scale"].shape == ()
    none = ("method.tuning.optim.epochs=0", learned, f"bank={path}")
    begun = Starts(Source(towers_file, offline=True), CPU).of(load_recipe("finetune-clip", none))
    assert begun.backbone.scale == pytest.approx(float(bank.tensors["logit_scale"].exp()), rel=1e-6)
    assert abs(begun.backbone.scale / begun.base.scale - 1) > 5e-4
    pictures, labels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([0, 1])
    support = Support(pictures, labels, torch.zeros(2, 16), 2, texts=(("a cat",), ("a fish",)))
    head = begun.learner.adapt(begun.backbone, support, Run()).head
    assert head.weight.norm(dim=1).tolist() == pytest.approx([begun.backbone.scale] * 2, rel=1e-5)


def test_eval_takes_a_template_for_recipes_from_a_bank_and_beside_it(tuned, drawings):
    chosen = {"backbone": None, "image_size": None}
    changes = ["template=a drawing of a {}."]
    bank = tuned(drawings)
    found = recipes_asked(["finetune-clip"], changes, chosen, [bank], None, True, Fixed())
    assert {name: recipe.template for name, recipe in found.items()} == {
        "finetune-clip": ("a drawing of a {}.",),
        "finetune-clip from x": ("a drawing of a {}.",),
    }
    assert found["finetune-clip"].bank is None and found["finetune-clip"].backbone == "clip:tiny"


def test_a_backbone_that_reads_no_text_is_refused(tmp_path):
    recipe = load_meta_recipe("mamf-clip", QUICK, backbone="test_vit")
    context = JobContext(Source(None, offline=True), CPU, FeatureCache(), NoProgress(), Processes())
    with pytest.raises(FewshotError, match="reads no texts"):
        meta_tune(recipe, MetaTuningData(()), Output(tmp_path / "x.bank"), 0, context)
