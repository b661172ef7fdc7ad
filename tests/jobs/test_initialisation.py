"""From a bank: a classifier and its file, and banks compared over many episodes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot_cli.engine.distributed import Processes
from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.bank import read_bank, read_bank_header, write_bank
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs.benchmark import blocks
from fewshot_cli.jobs.benchmark.episode_runner import answer_block
from fewshot_cli.jobs.benchmark.protocols import protocols
from fewshot_cli.jobs.benchmark.reproduce import repeat
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, compare
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.initialisation import Starts, agreeing, common_base
from fewshot_cli.jobs.interop.export import export
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share.verify import verify
from fewshot_cli.methods.from_bank import FromBank
from fewshot_cli.recipes import Recipe, load_recipe
from fewshot_cli.reports.terminal.adapt import adapted as shown
from fewshot_cli.storage.feature_cache import FeatureCache, NoCache

CPU = torch.device("cpu")
QUICK = ("method.tuning.optim.steps=1", "method.tuning.optim.epochs=0")


@pytest.fixture(scope="session")
def banks(tmp_path_factory, vit, random_bank) -> dict[str, Path]:
    """A bank of each kind on the tiny ViT; not to be changed."""
    folder = tmp_path_factory.mktemp("banks")
    return {kind: random_bank(folder / f"{kind}.bank", vit, kind) for kind in ("experts", "dense")}


every_kind = pytest.mark.parametrize("kind", ["experts", "dense"])


def rewritten(bank: Path, path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """The bank with another header or other tensors."""
    read = read_bank(bank)
    facts = {"header": read.header.model_dump(), "tensors": dict(read.tensors)}
    edit(facts)
    write_bank(path, type(read.header).model_validate(facts["header"]), read.delta, read.gates, facts["tensors"])
    return path


# --- a classifier ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bank_that_a_recipe_names_may_lie_in_the_home_folder(banks, drawn, tmp_path, learn, monkeypatch):
    monkeypatch.setenv("HOME", str(banks["dense"].parent))
    monkeypatch.setenv("USERPROFILE", str(banks["dense"].parent))
    report = learn(drawn, tmp_path / "x.fewshot", "protonet", bank="~/dense.bank")
    assert report["bank"]["digest"] == read_bank(banks["dense"]).digest


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("recipe", ["protonet", "ridge", "finetune", "lora"])
def test_a_file_made_from_a_bank_is_complete_on_the_original_base(
    kind, recipe, banks, drawn, unseen, tmp_path, learn, predict, evaluate, source
):
    file = tmp_path / "x.fewshot"
    changes = QUICK if hasattr(load_recipe(recipe).method, "tuning") else ()
    report = learn(drawn, file, recipe, *changes, bank=banks[kind], folds=2)
    assert report["max_abs_diff"] < 1e-3
    assert report["backbone"] == "test_vit" and report["recipe"]["image_size"] == 64
    assert report["bank"] == {"file": str(banks[kind]), "digest": read_bank(banks[kind]).digest}
    assert report["pruning"] is None
    assert report["density"] > 0.5 and report["expected_accuracy"]["mean"] is not None
    assert read_delta_file(file).header.provenance.bank == report["bank"]["digest"]
    plain = learn(drawn, tmp_path / "plain.fewshot", recipe, *changes)
    probabilities = [
        [row["probability"] for row in predict(tmp_path / name, drawn)["predictions"]]
        for name in ("x.fewshot", "plain.fewshot")
    ]
    assert probabilities[0] != pytest.approx(probabilities[1], abs=1e-3)
    assert plain["bank"] is None
    assert evaluate(file, unseen)["n"] == 15
    assert verify(file, source, CPU).backbone == "test_vit"


@pytest.mark.slow
def test_a_file_made_from_a_bank_is_exported_like_any_other(banks, drawn, tmp_path, learn, source):
    learn(drawn, tmp_path / "x.fewshot", "ridge", bank=banks["experts"])
    output = tmp_path / "x.safetensors"
    report = export(
        tmp_path / "x.fewshot", output, "safetensors", None, JobContext(source, CPU, NoCache(), NoProgress())
    )
    assert report.top1_agreement == 1


@pytest.mark.slow
@every_kind
def test_the_estimate_from_a_bank_is_of_images_that_nothing_was_learned_from(kind, banks, drawn, tmp_path, learn):
    """The change of a dense bank is no task's, so that leaving one out is exact; experts are mixed anew."""
    report = learn(drawn, tmp_path / "x.fewshot", "protonet", bank=banks[kind], folds=2)
    how = report["expected_accuracy"]["how"]
    assert how.startswith("2-fold" if kind == "experts" else "images of each class left out in turn")


@pytest.mark.slow
@every_kind
def test_the_same_run_gives_the_same_bytes_whatever_the_cache_knows(kind, banks, drawn, tmp_path, learn):
    cache = FeatureCache(tmp_path / "features.sqlite")
    for i, kept in enumerate([None, cache, cache]):
        learn(drawn, tmp_path / f"{i}.fewshot", "protonet", bank=banks[kind], cache=kept)
    first, *others = [(tmp_path / f"{i}.fewshot").read_bytes() for i in range(3)]
    assert all(other == first for other in others)


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("recipe", ["ridge", "logistic", "finetune"])
def test_the_held_out_cost_of_rounding_is_told_of_a_bank_too(kind, recipe, banks, drawn, tmp_path, learn):
    changes = QUICK if recipe == "finetune" else ()
    report = learn(drawn, tmp_path / "x.fewshot", recipe, *changes, bank=banks[kind], folds=2, values="float16")
    cost = report["values"]
    assert cost["accuracy_before"] <= report["expected_accuracy"]["mean"]
    assert cost["accuracy"] == pytest.approx(cost["accuracy_before"], abs=0.1)


@pytest.mark.slow
def test_rounded_features_are_what_is_asked_about(banks, drawn, tmp_path, learn, monkeypatch):
    monkeypatch.setattr("fewshot_cli.jobs.proofs.logits.MOST_CHANGED", 1)
    fine, coarse = (
        learn(drawn, tmp_path / f"{values}.fewshot", "protonet", bank=banks["dense"], values=values)["values"]
        for values in ("float16", "1bit")
    )
    assert coarse["accuracy"] != fine["accuracy"] and coarse["accuracy_before"] == fine["accuracy_before"]


@pytest.mark.slow
def test_features_that_a_dense_bank_moved_are_computed_once_and_are_no_others(
    banks, drawn, tmp_path, learn, passes, vit, random_bank
):
    cache = FeatureCache(tmp_path / "features.sqlite")
    other = random_bank(tmp_path / "other.bank", vit, "dense", seed=1)
    heads = []
    for i, bank in enumerate([None, banks["dense"], other]):
        learn(drawn, tmp_path / f"{i}.fewshot", "protonet", bank=bank, cache=cache)
        heads.append(read_delta_file(tmp_path / f"{i}.fewshot").head.weight)
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])
    passes.clear()
    learn(drawn, tmp_path / "again.fewshot", "ridge", bank=banks["dense"], cache=cache)
    assert [number for number in passes if number > 1] == [12]  # of the proof, which looks itself


@pytest.mark.slow
@every_kind
def test_pruning_says_what_it_costs(kind, banks, drawn, tmp_path, learn_result):
    whole = learn_result(drawn, tmp_path / "whole.fewshot", "protonet", bank=banks[kind], folds=2)
    pruned = learn_result(drawn, tmp_path / "pruned.fewshot", "protonet", bank=banks[kind], density=0.05, folds=2)
    cost = pruned.pruning
    assert pruned.density == cost.density == pytest.approx(0.05, abs=1e-3)
    assert cost.density_before == whole.density
    assert cost.accuracy == pruned.expected_accuracy.mean
    assert cost.accuracy_before == whole.expected_accuracy.mean
    assert pruned.bytes < 0.2 * whole.bytes
    rows = [str(cell) for cell in shown(pruned).columns[0]._cells]
    assert "pruning" in rows and "bank" in rows
    assert "pruning" not in [str(cell) for cell in shown(whole).columns[0]._cells]


@pytest.mark.slow
def test_a_density_of_all_changes_nothing(banks, drawn, tmp_path, learn):
    for name, density in (("a", None), ("b", 1.0)):
        learn(drawn, tmp_path / f"{name}.fewshot", "protonet", bank=banks["experts"], density=density)
    files = [read_delta_file(tmp_path / f"{name}.fewshot") for name in "ab"]
    assert torch.equal(files[0].head.weight, files[1].head.weight)


@pytest.mark.slow
def test_where_no_accuracy_is_known_pruning_still_has_a_line(banks, drawn, tmp_path, learn_result):
    result = learn_result(drawn, tmp_path / "x.fewshot", "protonet", bank=banks["experts"], density=0.05, folds=0)
    assert result.pruning.accuracy is None
    assert "pruning" in [str(cell) for cell in shown(result).columns[0]._cells]


# --- what does not fit -----------------------------------------------------------------------------------------------


def refused(recipe: Recipe, source: Source) -> str:
    with pytest.raises(FewshotError) as caught:
        Starts(source, CPU).of(recipe)
    assert caught.value.hint
    return caught.value.problem


def from_file(path: Path, **given: Any) -> Recipe:
    return load_recipe("protonet", bank=str(path), **given)


@pytest.mark.slow
def test_the_bank_names_the_backbone_and_a_recipe_may_not_contradict_it(banks, source):
    start = Starts(source, CPU).of(from_file(banks["experts"]))
    assert (start.recipe.backbone, start.recipe.image_size) == ("test_vit", 64)
    assert isinstance(start.learner, FromBank)
    assert Starts(source, CPU).of(from_file(banks["experts"], backbone="test_vit")).recipe.image_size == 64
    assert "test_efficientnet" in refused(from_file(banks["experts"], backbone="test_efficientnet"), source)
    assert "96" in refused(from_file(banks["experts"], image_size=96), source)


def test_a_bank_of_other_weights_is_refused(banks, tmp_path, weights):
    changed = load_file(weights["test_vit"])
    changed["blocks.0.attn.qkv.weight"][3, 5] += 1e-3
    save_file(changed, tmp_path / "other.safetensors")
    assert "not the ones" in refused(from_file(banks["dense"]), Source(tmp_path / "other.safetensors"))


def test_a_bank_that_is_missing_or_another_kind_of_file_is_refused(drawn, tmp_path, learn, source):
    assert "no bank" in refused(from_file(tmp_path / "gone.bank"), source)
    learn(drawn, tmp_path / "x.fewshot")
    assert "delta file" in refused(from_file(tmp_path / "x.fewshot"), source)


@pytest.mark.parametrize(
    "edit",
    [
        lambda facts: facts["header"]["router"].pop("pool"),
        lambda facts: facts["header"]["router"].update(pool="last"),
        lambda facts: facts["header"]["router"].update(temperature=0),
        lambda facts: facts["tensors"].pop("router.expert_keys"),
        lambda facts: facts["tensors"].update({"router.expert_keys": torch.zeros(2, 64)}),
        lambda facts: facts["tensors"].update({"router.more": torch.zeros(2)}),
    ],
)
def test_a_bank_without_a_working_router_is_refused(edit, banks, tmp_path, source):
    assert "router" in refused(from_file(rewritten(banks["experts"], tmp_path / "x.bank", edit)), source)


def test_a_bank_whose_shapes_do_not_fit_is_refused(banks, tmp_path, source):
    def renamed(facts: dict[str, Any]) -> None:
        shapes = facts["header"]["shapes"]
        facts["header"]["shapes"] = {f"{name}s": shape for name, shape in shapes.items()}

    assert "does not have" in refused(from_file(rewritten(banks["dense"], tmp_path / "x.bank", renamed)), source)


def test_a_header_is_read_without_the_rest(banks):
    read = read_bank(banks["experts"])
    assert read_bank_header(banks["experts"]) == (read.header, read.digest)


def test_a_density_is_a_banks():
    with pytest.raises(FewshotError, match="density: is of a bank"):
        load_recipe("protonet", ["density=0.5"])
    assert load_recipe("protonet", ["density=0.5", "bank=x.bank"]).density == 0.5
    with pytest.raises(FewshotError, match=r"density: .*1\.5"):
        load_recipe("protonet", ["density=1.5", "bank=x.bank"])


def test_banks_to_compare_have_one_base_and_names_of_their_own(banks, tmp_path, conv, vit, random_bank):
    assert common_base(list(banks.values())).backbone == "test_vit"
    other = random_bank(tmp_path / "other.bank", conv)
    with pytest.raises(FewshotError, match="different backbones"):
        common_base([banks["experts"], other])
    with pytest.raises(FewshotError, match="Two banks are called dense"):
        common_base([banks["dense"], random_bank(tmp_path / "dense.bank", vit)])


# --- banks over many episodes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "day"
    write_folder(folder, ("cat", "fish", "house", "star"), 6, seed=0, size=64)
    return folder


@pytest.fixture
def run(source, day, tmp_path) -> Callable[..., dict[str, Any]]:
    def run(recipes: dict[str, Recipe], episodes: int = 2, cache: FeatureCache | None = None, **protocol: Any):
        facts = {"name": "fixed", "way": 3, "shots": 2, "queries": 3} | protocol
        question = ComparisonSettings(tuple(read_datasets(day)), protocols(facts), episodes, 0, (), (str(day),))
        context = JobContext(source, CPU, cache or FeatureCache(), NoProgress(), Processes())
        return compare(recipes, question, context, tmp_path / "run.json")[0].report()

    return run


@pytest.fixture
def asked(banks) -> dict[str, Recipe]:
    """protonet as it is and from each bank."""
    plain = agreeing(load_recipe("protonet"), common_base(list(banks.values())), banks["dense"])
    return {"protonet": plain} | {f"protonet from {kind}": from_file(path) for kind, path in banks.items()}


def figures(report: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {metric: values for metric, values in rows["day"].items() if metric != "seconds"}
        for name, rows in report["results"].items()
    }


@pytest.mark.slow
def test_banks_are_compared_with_each_other_and_the_frozen_backbone(run, asked, banks):
    report = run(asked, episodes=4)
    found = figures(report)
    nll = [found[name]["nll"] for name in asked]
    assert nll[0] != nll[1] and nll[1] != nll[2] and {len(values) for values in nll} == {4}
    assert len(report["pairs"]) == 6  # three of them on the one data set and over all
    assert report["banks"] == {str(path): read_bank(path).digest for path in banks.values()}
    assert report["backbone"] == "test_vit"
    heads = 3 * (64 + 2 + 4)  # a row of int8, its scale, and its bias
    assert set(found["protonet"]["bytes"]) == {heads}
    for kind in banks:
        assert min(found[f"protonet from {kind}"]["bytes"]) > 100 * heads


@pytest.mark.slow
@every_kind
def test_an_episode_is_what_adapting_to_it_gives(kind, banks, asked, run, source, day):
    """By hand: the support set's pictures, the learner, and the queries under the delta that it yields."""
    from fewshot_cli.engine.adaptation import Run, Support
    from fewshot_cli.engine.delta.change import merge, plus
    from fewshot_cli.jobs.benchmark.run import _jobs

    recipe = asked[f"protonet from {kind}"]
    found = run({"only": recipe})["results"]["only"]["day"]
    question = ComparisonSettings(
        tuple(read_datasets(day)), protocols({"name": "fixed", "way": 3, "shots": 2, "queries": 3}), 2, 0
    )
    (job,), _ = _jobs({"only": recipe}, question, JobContext(source, CPU, NoCache(), NoProgress(), Processes()))
    source, start = job.source, job.start
    for number in range(2):
        (session,) = source.episodes(0, [number])[0].sessions
        images = source.images[torch.from_numpy(session.support)]
        labels = torch.from_numpy(session.support_labels)
        support = Support(images, labels, start.backbone.frozen_features(images), 3)
        adapted = start.learner.adapt(start.backbone, support, Run())
        weights = merge(start.base.params, plus(start.delta, adapted.delta))
        asked_about = start.base.frozen_features(source.images[torch.from_numpy(session.query)], weights)
        probabilities = adapted.head.logits(asked_about).log_softmax(1)
        truth = torch.from_numpy(session.query_labels)
        expected = -probabilities[torch.arange(len(truth)), truth].mean()
        assert found["nll"][number] == pytest.approx(float(expected), abs=1e-4)


def test_dense_banks_keep_their_heads_in_one_batch_and_their_features_in_the_cache(run, asked, passes):
    cache = FeatureCache()
    run({"a": asked["protonet from dense"]}, cache=cache, episodes=60)
    seen = [number for number in passes if number > 1]
    assert len(seen) == 1  # all pictures at once
    ridge = load_recipe("ridge", bank=asked["protonet from dense"].bank)
    run({"b": ridge}, cache=cache, episodes=60)
    assert [number for number in passes if number > 1] == seen


def test_images_go_through_the_weights_that_experts_merge_once_each(run, asked, passes):
    cache = FeatureCache()
    run({"plain": asked["protonet"]}, cache=cache)
    passes.clear()
    run({"a": asked["protonet from experts"]}, cache=cache, episodes=2)
    assert [number for number in passes if number > 1] == [6, 9, 6, 9]  # support and queries of two episodes


@pytest.mark.slow
def test_a_run_with_banks_goes_on_where_it_stopped(run, asked, monkeypatch):
    done: list[int] = []
    monkeypatch.setattr(blocks, "answer_block", lambda *given: done.append(given[3]) or answer_block(*given))
    few = figures(run(asked, episodes=1))
    assert sorted(done) == [0, 0, 0]
    more = figures(run(asked, episodes=3))
    assert sorted(done) == [0, 0, 0, 1, 2]  # a head's 50 episodes are one block, kept whole; experts' are one each
    name = "protonet from experts"
    assert more[name]["nll"][:1] == few[name]["nll"]


@pytest.mark.slow
def test_results_belong_to_the_content_of_a_bank_whatever_its_name(run, asked, banks, tmp_path, vit, random_bank):
    first = run({"a": asked["protonet from dense"]})
    (key,) = first["keys"]["a"].values()
    elsewhere = tmp_path / "elsewhere.bank"
    elsewhere.write_bytes(banks["dense"].read_bytes())
    assert set(run({"a": from_file(elsewhere)})["keys"]["a"].values()) == {key}
    random_bank(elsewhere, vit, "dense", seed=1)
    other = run({"a": from_file(elsewhere)})
    assert set(other["keys"]["a"].values()) != {key} and figures(other) != figures(first)
    assert set(run({"a": from_file(banks["dense"], density=0.1)})["keys"]["a"].values()) != {key}


@pytest.mark.slow
def test_a_run_with_banks_can_be_repeated(run, asked, source, tmp_path, vit, random_bank):
    bank = random_bank(tmp_path / "mine.bank", vit)
    run(asked | {"mine": load_recipe("finetune", QUICK, bank=str(bank), density=0.1)})
    context = JobContext(source, CPU, NoCache(), NoProgress(), Processes())
    assert repeat(tmp_path / "run.json", (), context).differences == 0
    random_bank(bank, vit, seed=1)
    with pytest.raises(CheckFailed, match="another bank"):
        repeat(tmp_path / "run.json", (), context)
    bank.unlink()
    with pytest.raises(FewshotError, match=r"mine\.bank"):
        repeat(tmp_path / "run.json", (), context)


def test_a_record_of_before_there_were_banks_can_be_repeated(run, asked, source, tmp_path):
    run({"protonet": asked["protonet"]})
    path = tmp_path / "run.json"
    record = json.loads(path.read_text())
    del record["banks"], record["recipes"]["protonet"]["bank"], record["recipes"]["protonet"]["density"]
    path.write_text(json.dumps(record))
    assert repeat(path, (), JobContext(source, CPU, NoCache(), NoProgress(), Processes())).differences == 0


def test_classes_are_added_on_a_dense_bank_only(run, asked):
    sessions = {"name": "incremental", "base_way": 2, "way": 1, "sessions": 1}
    facts = {"shots": 2, "base_shots": 2, "queries": 2} | sessions
    report = run({"a": asked["protonet from dense"]}, episodes=50, **facts)
    assert len(report["rows"]) == 2 and report["methods"]["a"]["bytes"] > 1e5
    with pytest.raises(FewshotError, match="can't add classes") as caught:
        run({"a": asked["protonet from experts"]}, **facts)
    assert "dense" in caught.value.hint
