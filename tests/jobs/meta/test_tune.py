"""Meta-tuning from start to bank: every method, every sampler, and a run that is stopped wherever it may be."""

import io
import json
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.meta import episodes, mamf
from fewshot_cli.engine.meta import prototype_loss as meta_losses
from fewshot_cli.engine.meta.loop import Practice
from fewshot_cli.engine.meta.smat import fast_path
from fewshot_cli.engine.meta.smat.gates import IN_CHUNKS
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats import checkpoint as checkpoints
from fewshot_cli.formats.bank import read_bank
from fewshot_cli.formats.checkpoint import checkpoint_path, read_checkpoint
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs import context
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.meta import tasks as tasks_module
from fewshot_cli.jobs.meta.checkpoints import check_circumstances
from fewshot_cli.jobs.meta.log import log_path
from fewshot_cli.jobs.meta.results import MetaTuningData, Output
from fewshot_cli.jobs.meta.tune import meta_tune
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.meta_recipes import load_meta_recipe
from fewshot_cli.reports.terminal.meta_tune import meta_tuned
from fewshot_cli.results import read_meta_tune
from fewshot_cli.storage.feature_cache import FeatureCache

CPU = torch.device("cpu")
LABELS = ("cat", "fish", "house", "star", "tree")
SMALL = (
    "training.protocol={name: fixed, way: 3, shots: 2, queries: 2}",
    "training.epochs=2",
    "training.episodes=4",
    "training.validation.episodes=2",
)
METHODS = ("smat", "dense", "fomaml", "mamf")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Two data sets of the same five classes, ten pictures each."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("day", "night")):
        write_folder(folder / name, LABELS, 10, seed=seed, size=64)
    return folder


@pytest.fixture
def tune(weights, sets, tmp_path) -> Callable[..., dict[str, Any]]:
    """`meta_tune` on the tiny ViT, a few tasks of it."""

    def tune(
        recipe: str = "smat",
        *changes: str,
        output: Path | Output | None = None,
        resume: bool = False,
        seed: int = 0,
        data: Path = sets,
        validation: Path | None = None,
        backbone: str = "test_vit",
    ) -> dict[str, Any]:
        small = [change for change in SMALL if recipe != "mamf" or "training.episodes" not in change]
        what = load_meta_recipe(recipe, [*small, *changes], backbone=backbone, image_size=64)
        where = output if isinstance(output, Output) else Output(output or tmp_path / "x.bank")
        kept = tuple(read_datasets(validation)) if validation else ()
        material = MetaTuningData(tuple(read_datasets(data)), kept, (str(data),))
        context = JobContext(Source(weights[backbone], offline=True), CPU, FeatureCache(), NoProgress(), Processes())
        return meta_tune(what, material, replace(where, resume=where.resume or resume), seed, context).report()

    return tune


@pytest.fixture
def stop(monkeypatch) -> Callable[[int], None]:
    """Has a polite signal come in the middle of step `at`, once."""
    advance = Practice.advance

    def stop(at: int) -> None:
        def stopped(self: Practice) -> None:
            if self.step == at:
                monkeypatch.setattr(Practice, "advance", advance)
                signal.raise_signal(signal.SIGTERM)
            advance(self)

        monkeypatch.setattr(Practice, "advance", stopped)

    return stop


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_path(output).read_text().splitlines()]


def bits(path: Path) -> dict[str, torch.Tensor]:
    bank = read_bank(path)
    gates = {} if bank.gates is None else {"gates": bank.gates}
    return {"delta": bank.delta, **gates, **bank.tensors}


def same(a: Path, b: Path) -> bool:
    first, second = bits(a), bits(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_bank_and_says_what_it_did(method, tune, tmp_path):
    output = tmp_path / "x.bank"
    report = tune(method)
    bank = read_bank(output)
    assert bank.header.base.backbone == "test_vit" and bank.header.base.preprocessing.size == (64, 64)
    assert bank.header.recipe["method"]["name"] == method == report["method"]
    assert bank.header.kind == ("experts" if method == "smat" else "dense")
    assert bank.header.experts == (8 if method == "smat" else 0)
    assert bank.delta.abs().max() > 0
    assert bank.header.provenance.episodes == report["epochs"][report["best_epoch"]]["tasks"]
    assert set(report["datasets"]) == {"day (validation)", "night (validation)"}
    assert bank.header.provenance.validation == {name: v["accuracy"] for name, v in report["datasets"].items()}
    assert report["accuracy"] == max(epoch["accuracy"] for epoch in report["epochs"])
    assert report["bytes"] == output.stat().st_size and report["seconds"]["total"] > 0
    assert json.loads((tmp_path / "x.bank.run.json").read_text())["recipe"] == report["recipe"]
    assert not checkpoint_path(output).exists()
    practised = [line for line in lines(output) if "loss" in line]
    assert [line["episode"] for line in practised] == list(range(report["episodes"]))


@pytest.mark.slow
def test_a_convolutional_backbone_can_be_meta_tuned(tune, tmp_path):
    report = tune("smat", "method.experts=3", backbone="test_efficientnet")
    assert report["backbone"] == "test_efficientnet"
    assert read_bank(tmp_path / "x.bank").gates.shape[0] == 3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["smat-vits", "smat-vitb", "dense-vits"])
def test_the_published_recipes_run_on_a_small_backbone(recipe, tune, tmp_path):
    """Variable way and shot, views, many tasks a step, the published schedule, whose epoch 0 learns next to nothing."""
    limits = "{name: meta-dataset, min_way: 3, max_way: 4, max_queries: 2, max_support: 20, max_per_class: 4}"
    few = ("training.episodes=16", "training.validation.episodes=1")
    changes: dict[int, float] = {}
    for epochs in (1, 3):
        report = tune(
            *(recipe, f"training.protocol={limits}", *few, f"training.epochs={epochs}"),
            *("training.validation.patience=null", "training.validation.select=last"),
        )
        changes[epochs] = float(read_bank(tmp_path / "x.bank").delta.abs().max())
        assert report["episodes"] == 16 * epochs
    assert changes[1] < 1e-4 and changes[3] > 3 * changes[1]


@pytest.mark.slow
def test_practice_makes_better(tune):
    """The loss falls on drawn pictures, with dense weights and with experts."""
    for changes in (("dense", "method.lr=1e-3"), ("smat", "method.delta_lr=5e-3", "method.kd=0", "method.sparsity=0")):
        report = tune(*changes, "training.episodes=30", "training.validation.episodes=0")
        assert report["epochs"][-1]["loss"] < 0.9 * report["epochs"][0]["loss"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bank_and_another_does_not(tune, tmp_path):
    paths = [tmp_path / f"{i}.bank" for i in range(3)]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        tune("smat", output=path, seed=seed)
    assert same(paths[0], paths[1]) and paths[0].read_bytes() == paths[1].read_bytes()
    assert not same(paths[0], paths[2])


@pytest.mark.slow
def test_masks_that_are_compared_with_have_the_density_of_those_learned(tune, tmp_path):
    opened = {}
    for masks in ("random", "magnitude"):
        tune("smat", f"method.masks={masks}", "method.sparsity=0.8")
        gates = read_bank(tmp_path / "x.bank").gates
        assert gates.unique().tolist() == [0.0, 1.0]
        assert gates.mean(1).tolist() == pytest.approx([0.2] * 8, abs=1e-4)
        opened[masks] = gates
    assert torch.equal(opened["magnitude"][0], opened["magnitude"][7])
    assert not torch.equal(opened["random"][0], opened["random"][7])


@pytest.mark.slow
def test_each_task_of_mamf_takes_an_order_of_batches_of_its_own(tune, monkeypatch):
    seeds = []
    trained = mamf.trained_on_task
    monkeypatch.setattr(mamf, "trained_on_task", lambda *args: seeds.append(args[-2].seed) or trained(*args))
    tune("mamf", "method.tasks=3", "training.epochs=1")
    tune("mamf", "method.tasks=3", "training.epochs=1")
    assert len(set(seeds)) == 3 and seeds[:3] == seeds[3:]


@pytest.mark.slow
def test_gates_are_written_as_they_are_used(tune, tmp_path):
    changes = ("method.experts=3", "method.masks.lr=15")
    tune("smat", *changes)
    assert read_bank(tmp_path / "x.bank").gates.unique().tolist() == [0.0, 1.0]
    tune("smat", *changes, "method.binary=false")
    assert len(read_bank(tmp_path / "x.bank").gates.unique()) > 100


@pytest.mark.slow
def test_learned_masks_reach_their_sparsity(tune):
    report = tune(
        "smat",
        "method.masks.lr=15",
        "method.masks.multiplier_lr=1.5",
        "training.episodes=20",
        "training.validation.episodes=0",
    )
    assert all(0.75 < sparsity < 0.97 for sparsity in report["epochs"][-1]["sparsity"])


# --- stopping and going on -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "at"), [("smat", 0), ("smat", 2), ("smat", 3), ("smat", 5), ("dense", 3), ("fomaml", 5), ("mamf", 4)]
)
def test_a_stopped_run_goes_on_to_the_same_bank(recipe, at, tune, stop, tmp_path):
    straight, stopped = tmp_path / "straight.bank", tmp_path / "stopped.bank"
    tune(recipe, output=straight)
    stop(at)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        tune(recipe, output=stopped)
    report = tune(recipe, output=stopped, resume=True)
    assert straight.read_bytes() == stopped.read_bytes()
    assert lines(stopped) == lines(straight)
    assert report["epochs"] == json.loads((tmp_path / "straight.bank.run.json").read_text())["epochs"]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["exp3", "ucb1"])
def test_samplers_that_learn_go_on_where_they_were(sampler, tune, stop, tmp_path):
    straight, stopped = tmp_path / "straight.bank", tmp_path / "stopped.bank"
    changes = (f"training.sampler.name={sampler}", "training.batch=2", "training.target=night")
    tune("dense", *changes, output=straight)
    stop(3)
    with pytest.raises(KeyboardInterrupt):
        tune("dense", *changes, output=stopped)
    if sampler == "exp3":
        state = json.loads(read_checkpoint(checkpoint_path(stopped)).facts.sampler)
        assert any(total != 0 for total in state["totals"])
    tune("dense", *changes, output=stopped, resume=True)
    assert straight.read_bytes() == stopped.read_bytes()


@pytest.mark.slow
def test_a_run_that_crashed_goes_on_from_its_last_epoch(tune, tmp_path, monkeypatch):
    """As after kill -9: nothing of the broken epoch is there but its scalars, which are dropped."""
    straight, crashed = tmp_path / "straight.bank", tmp_path / "crashed.bank"
    tune(output=straight)
    advance = Practice.advance

    def crash(self: Practice) -> None:
        if self.step == 6:
            raise RuntimeError("crashed")
        advance(self)

    monkeypatch.setattr(Practice, "advance", crash)
    with pytest.raises(RuntimeError, match="crashed"):
        tune(output=crashed)
    monkeypatch.undo()
    with log_path(crashed).open("a") as file:
        file.write('{"step": 6, "cut sho')
    tune(output=crashed, resume=True)
    assert straight.read_bytes() == crashed.read_bytes()
    assert lines(crashed) == lines(straight)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"[1]\n", b"{}\n", b'{"step": "x"}\n', b"{\n", b"\xff\n"])
def test_a_damaged_log_is_a_sentence(damage, tune, stop, tmp_path):
    stop(2)
    with pytest.raises(KeyboardInterrupt):
        tune()
    log = log_path(tmp_path / "x.bank")
    whole = log.read_bytes()
    log.write_bytes(damage + whole)
    with pytest.raises(FewshotError, match=r"x\.bank\.log\.jsonl (is damaged in line 1|can't be read)"):
        tune(resume=True)
    assert log.read_bytes() == damage + whole


@pytest.mark.slow
def test_an_unfinished_run_is_neither_overwritten_nor_mixed_up(tune, stop, tmp_path):
    output = tmp_path / "x.bank"
    stop(2)
    with pytest.raises(KeyboardInterrupt):
        tune()
    before = checkpoint_path(output).read_bytes()
    with pytest.raises(FewshotError, match="checkpoint of a run that was stopped"):
        tune()
    with pytest.raises(FewshotError, match=r"another recipe.method.inner_lr \(0.001, now 0.1\)"):
        tune("smat", "method.inner_lr=0.1", resume=True)
    with pytest.raises(FewshotError, match=r"another seed \(0, now 1\)"):
        tune(resume=True, seed=1)
    assert checkpoint_path(output).read_bytes() == before
    tune(resume=True)
    with pytest.raises(FewshotError, match="is finished"):
        tune(resume=True)


@pytest.mark.slow
def test_a_run_goes_on_only_where_the_same_bank_is_to_be_had(tune, stop, tmp_path, monkeypatch):
    """As the promise is the same bank, bit for bit: what may move its last bits is told, and how to go on."""
    stop(2)
    with pytest.raises(KeyboardInterrupt):
        tune("dense")
    before = checkpoint_path(tmp_path / "x.bank").read_bytes()
    others = context.versions() | {"torch": "1.0", "timm": "0.1"}
    for name, other, says, remedy in (
        ("jobs.context.versions", lambda: others, r"torch \S+, now 1\.0; timm \S+, now 0\.1", "timm=="),
        ("jobs.context.code_digest", lambda: "other", "other code of fewshot", "the code that began it"),
        ("jobs.meta.checkpoints.__version__", "9.9", r"fewshot \S+, now 9\.9", "start anew"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"fewshot_cli.{name}", other)
            patched.setattr("fewshot_cli.jobs.meta.tune.load_backbone", lambda *args: pytest.fail("it is read"))
            with pytest.raises(FewshotError, match=says) as caught:
                tune("dense", resume=True)
            assert remedy in caught.value.hint
    with monkeypatch.context() as patched:
        patched.setattr(torch, "get_num_threads", lambda: 3)
        with pytest.raises(FewshotError, match="threads 1, now 3") as caught:
            tune("dense", resume=True)
        assert "OMP_NUM_THREADS=1" in caught.value.hint
    assert checkpoint_path(tmp_path / "x.bank").read_bytes() == before
    tune("dense", resume=True)


def test_another_device_is_told_with_the_option_that_goes_back():
    before = {"device": "cpu", "threads": "1", "torch": "2"}
    with pytest.raises(FewshotError, match="device cpu, now cuda; threads 1, now none") as caught:
        check_circumstances(Path("x.checkpoint"), before, {"device": "cuda", "threads": "", "torch": "2"})
    assert "--device cpu and with OMP_NUM_THREADS=1, or remove" in caught.value.hint
    with pytest.raises(FewshotError, match="processes 1, now 2") as caught:
        check_circumstances(Path("x.checkpoint"), {"processes": "1"}, {"processes": "2"})
    assert "without torchrun" in caught.value.hint
    check_circumstances(Path("x.checkpoint"), before, dict(before))


@pytest.mark.slow
def test_a_checkpoint_of_before_circumstances_were_written_is_a_sentence(tune, stop, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "KIND", replace(checkpoints.KIND, version=1))
        stop(2)
        with pytest.raises(KeyboardInterrupt):
            tune("dense")
    with pytest.raises(FewshotError, match="another version of fewshot"):
        tune("dense", resume=True)


@pytest.mark.slow
def test_there_need_be_nothing_to_go_on_from(tune, tmp_path):
    tune(output=tmp_path / "a.bank")
    tune(output=tmp_path / "b.bank", resume=True)
    assert same(tmp_path / "a.bank", tmp_path / "b.bank")


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(tune, tmp_path, monkeypatch):
    output, written = tmp_path / "x.bank", []
    write = checkpoints.write_signed

    def full(path: Path, *rest: Any) -> int:
        if len(written) == 1:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, *rest)

    monkeypatch.setattr(checkpoints, "write_signed", full)
    with pytest.raises(FewshotError, match="No space left"):
        tune()
    monkeypatch.undo()
    assert read_checkpoint(checkpoint_path(output)).facts.step == 4
    assert read_bank(output).delta.abs().max() > 0
    tune(resume=True)
    tune(output=tmp_path / "straight.bank")
    assert same(output, tmp_path / "straight.bank")


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_bank(tune, tmp_path, monkeypatch):
    advance = Practice.advance

    def poisoned(self: Practice) -> None:
        if self.step == 5:
            self.trainer.descent.write_({"delta": torch.full_like(self.bank["delta"], torch.inf)})
        advance(self)

    monkeypatch.setattr(Practice, "advance", poisoned)
    says = r"broke off in episode 5, a task of (day|night): .*query_ce.* no finite number"
    with pytest.raises(FewshotError, match=says) as caught:
        tune("smat", "method.delta_lr=0.3")
    assert "--set method.delta_lr=0.1 " in caught.value.hint
    assert read_bank(tmp_path / "x.bank").header.provenance.episodes == 4


# --- validation ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_bank_is_kept_or_the_last(tune, tmp_path, monkeypatch):
    accuracies = iter([0.5, 0.9, 0.7] * 2)
    monkeypatch.setattr("fewshot_cli.engine.meta.loop.validated", lambda *given: {"day": next(accuracies)})
    for select, tasks in (("best", 8), ("last", 12)):
        report = tune("dense", "training.epochs=3", f"training.validation.select={select}")
        assert read_bank(tmp_path / "x.bank").header.provenance.episodes == tasks
        assert report["accuracy"] == {"best": 0.9, "last": 0.7}[select]


@pytest.mark.slow
def test_patience_ends_a_run_that_gets_no_better(tune, monkeypatch):
    accuracies = iter([0.5, 0.6, 0.6, 0.1, 0.9])
    monkeypatch.setattr("fewshot_cli.engine.meta.loop.validated", lambda *given: {"day": next(accuracies)})
    report = tune("dense", "training.epochs=5", "training.validation.patience=2")
    assert len(report["epochs"]) == 4 and report["best_epoch"] == 1


@pytest.mark.slow
def test_data_sets_can_be_given_to_validate_on(tune, sets):
    report = tune("dense", data=sets / "day", validation=sets / "night")
    assert set(report["datasets"]) == {"night"}
    assert report["domains"]["day"]["images"] == 50  # nothing of it is kept apart


@pytest.mark.slow
def test_bad_input_is_a_sentence(tune, sets, tmp_path):
    with pytest.raises(FewshotError, match="way"):
        tune("dense", "training.protocol.way=9")
    with pytest.raises(FewshotError, match="target noon is none"):
        tune("dense", "training.target=noon", "training.sampler.name=exp3")
    with pytest.raises(FewshotError, match="A task of 11 classes can't be drawn from 10"):
        tune("mamf", "method.way=11")
    with pytest.raises(FewshotError, match="is a folder"):
        tune(output=tmp_path)
    with pytest.raises(FewshotError, match="Two data sets are called day"):
        what = load_meta_recipe("dense", SMALL, backbone="test_vit", image_size=64)
        context = JobContext(Source(offline=True), CPU, FeatureCache(), NoProgress(), Processes())
        twice = tuple(read_datasets(sets / "day")) * 2
        meta_tune(what, MetaTuningData(twice), Output(tmp_path / "x.bank"), 0, context)


@pytest.mark.slow
def test_what_the_run_would_not_heed_is_refused(tune, sets):
    with pytest.raises(FewshotError, match="validate on would do nothing"):
        tune("dense", "training.validation.episodes=0", data=sets / "day", validation=sets / "night")
    with pytest.raises(FewshotError, match="share would do nothing"):
        tune("dense", "training.validation.share=0.3", data=sets / "day", validation=sets / "night")
    with pytest.raises(FewshotError, match="split_by would do nothing"):
        tune("dense", "training.validation.split_by=image", data=sets / "day", validation=sets / "night")
    with pytest.raises(FewshotError, match="sampler exp3 would do nothing"):
        tune("dense", "training.sampler.name=exp3", data=sets / "day")


@pytest.mark.slow
def test_what_is_validated_on_is_not_practised_on(tune, sets, tmp_path):
    with pytest.raises(FewshotError, match=r"Every picture of \w+ in day is also in --validate"):
        tune("dense", data=sets / "day", validation=sets / "day")
    both = shutil.copytree(sets / "night", tmp_path / "both")
    one = sorted((sets / "day").rglob("*.*"))[0]
    shutil.copy(one, both / one.parent.name / f"again {one.name}")
    (note,) = tune("dense", data=sets / "day", validation=both)["notes"]
    assert note.startswith("day: 1 picture is validated on, too") and one.name in note and "in both" in note


@pytest.mark.slow
def test_a_checkpoint_of_another_version_is_no_traceback(tune, stop, monkeypatch):
    stop(3)
    with pytest.raises(KeyboardInterrupt):
        tune("dense")
    start = meta_losses.start
    monkeypatch.setattr(meta_losses, "start", lambda backbone: start(backbone) | {"more": torch.zeros(())})
    with pytest.raises(FewshotError, match="another version"):
        tune("dense", resume=True)


@pytest.mark.slow
def test_scalars_go_to_tensorboard_when_asked(tune, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tune("smat", "method.experts=3", output=Output(tmp_path / "x.bank", tensorboard=tmp_path / "board"))
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    tags = board.Tags()["scalars"]
    assert {"loss", "accuracy", "query_ce", "sparsity/2", "router/0", "validation/day (validation)"} <= set(tags)
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(
        [line["loss"] for line in lines(tmp_path / "x.bank") if "loss" in line]
    )


def test_a_missing_tensorboard_is_noticed_before_anything_is_read(tune, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot_cli.jobs.meta.log.find_spec", lambda name: None)
    monkeypatch.setattr("fewshot_cli.jobs.meta.tune.load_backbone", lambda *args: pytest.fail("the backbone is read"))
    with pytest.raises(FewshotError, match="TensorBoard is not installed"):
        tune("dense", output=Output(tmp_path / "x.bank", tensorboard=tmp_path / "board"))


@pytest.mark.parametrize(("recipe", "says"), [("smat", "share the episodes of a step"), ("mamf", "can't share")])
def test_a_process_without_work_is_refused_before_the_others_wait_for_it(recipe, says, sets, tmp_path):
    what = load_meta_recipe(recipe, SMALL[: 2 if recipe == "mamf" else None], backbone="test_vit", image_size=64)
    context = JobContext(Source(offline=True), CPU, FeatureCache(), NoProgress(), Processes(rank=0, world=2))
    with pytest.raises(FewshotError, match=says):
        meta_tune(what, MetaTuningData(tuple(read_datasets(sets))), Output(tmp_path / "x.bank"), 0, context)


@pytest.mark.slow
def test_a_data_set_with_brackets_in_its_name_can_be_the_target(tune, sets, tmp_path):
    for name in ("day", "night"):
        shutil.copytree(sets / name, tmp_path / "sets" / f"{name} (old)")
    changes = ("training.sampler.name=ucb1", "training.target=night (old)")
    assert tune("dense", *changes, data=tmp_path / "sets")["episodes"] == 8


# --- the fast path, without the GPU that it is for ---


class Graphs:
    """Records by doing the work again, but for the first recording of a real step, which fails."""

    def __init__(self, fails: bool) -> None:
        self.recordings, self.fails = 0, fails

    def run(self, work: Callable[[], Any]) -> Any:
        return work()

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        self.recordings += 1
        if self.fails and self.recordings > 1:  # the first is that of the trial
            raise RuntimeError("operation not permitted when stream is capturing")
        return work


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_the_fast_path_is_taken_and_what_becomes_of_it_is_told(fails, tune, tmp_path, monkeypatch, caplog):
    graphs = Graphs(fails)
    monkeypatch.setattr(fast_path, "available", lambda device: (IN_CHUNKS, graphs))
    plain, fast = tmp_path / "plain.bank", tmp_path / "fast.bank"
    assert tune("smat", "training.fast_path=off", output=plain)["notes"] == []
    assert graphs.recordings == 0
    report = tune("smat", output=fast)
    assert graphs.recordings == 2
    notes = [line["note"] for line in lines(fast) if "note" in line]
    assert notes == report["notes"] == [record.message for record in caplog.records]
    assert len(notes) == fails
    if fails:
        assert "without the fast path" in notes[0]
        console = Console(width=400, record=True, file=io.StringIO())
        console.print(meta_tuned(read_meta_tune(report)))
        assert notes[0] in console.export_text()
    for name, values in bits(plain).items():
        torch.testing.assert_close(bits(fast)[name], values, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_fast_path_that_fails_at_the_start_is_told_or_refused(tune, monkeypatch, sets, tmp_path):
    def broken(device: torch.device) -> None:
        raise RuntimeError("ptxas was not found")

    monkeypatch.setattr(fast_path, "available", broken)
    (note,) = tune("smat")["notes"]
    assert note.startswith("Training takes the plain path") and "ptxas" in note
    read = []
    monkeypatch.setattr("fewshot_cli.jobs.meta.tune.load_backbone", lambda *given: read.append(given))
    with pytest.raises(FewshotError, match="ptxas was not found"):
        tune("smat", "training.fast_path=on", output=tmp_path / "y.bank")
    assert not read  # before anything large
    monkeypatch.undo()
    with pytest.raises(FewshotError, match="would do nothing"):
        tune("smat", "training.fast_path=on", output=tmp_path / "y.bank")


@pytest.mark.slow
def test_a_run_can_go_on_without_the_fast_path_that_stopped_it(tune, stop, tmp_path):
    straight, stopped = tmp_path / "straight.bank", tmp_path / "stopped.bank"
    tune("smat", output=straight)
    stop(3)
    with pytest.raises(KeyboardInterrupt):
        tune("smat", output=stopped)
    tune("smat", "training.fast_path=off", output=stopped, resume=True)
    assert same(straight, stopped)


@pytest.mark.parametrize(("device", "has", "found"), [("cuda", True, "bfloat16"), ("cuda", False, "float32")])
def test_bfloat16_is_for_gpus_that_have_it_and_others_are_told(device, has, found, monkeypatch):
    monkeypatch.setattr(tasks_module, "has_bfloat16", lambda device: has)
    warn: list[str] = []
    recipe = load_meta_recipe("dense", SMALL)
    assert tasks_module.precision(recipe, torch.device(device), warn.append) == getattr(torch, found)
    assert len(warn) == (not has) and all("no bfloat16" in sentence for sentence in warn)
    monkeypatch.undo()
    assert tasks_module.precision(recipe, CPU, pytest.fail) == torch.float32
    assert (
        tasks_module.precision(load_meta_recipe("dense", ["training.precision=bfloat16"]), CPU, pytest.fail) is not None
    )


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["uniform", "exp3"])
def test_tasks_drawn_ahead_by_a_thread_lead_to_the_same_bank(sampler, tune, tmp_path, monkeypatch):
    ahead = episodes.Prefetched
    threads = []

    def threaded(make: Callable[..., Any], with_thread: bool) -> Any:
        assert not with_thread  # on a CPU

        def noted(key: Any) -> Any:
            threads.append(threading.current_thread().name)
            return make(key)

        return ahead(noted, with_thread=True)

    changes = (f"training.sampler={{name: {sampler}}}", "training.batch=2", "training.views={}")
    tune("smat", *changes, output=tmp_path / "straight.bank")
    monkeypatch.setattr(episodes, "Prefetched", threaded)
    tune("smat", *changes, output=tmp_path / "ahead.bank")
    assert same(tmp_path / "straight.bank", tmp_path / "ahead.bank")
    assert sum(name.startswith("next task") for name in threads) >= 4
