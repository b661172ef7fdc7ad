"""Recipes over many episodes: the same tasks for all, nothing done twice, the same result however it is computed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot_cli.engine.adaptation import JoinedImages
from fewshot_cli.engine.data.episode import Pool
from fewshot_cli.engine.data.episode_samplers import Fixed
from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.model.timm_models import parameter_shapes
from fewshot_cli.engine.trust.significance import mean_interval
from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs.benchmark import blocks
from fewshot_cli.jobs.benchmark import episode_runner as answering
from fewshot_cli.jobs.benchmark.episode_runner import EpisodeSource, answer_block
from fewshot_cli.jobs.benchmark.protocols import protocols
from fewshot_cli.jobs.benchmark.reproduce import figures_that_differ, repeat
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, compare
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.tim import TIM
from fewshot_cli.recipes import load_recipe
from fewshot_cli.reports.documents.results_table import markdown
from fewshot_cli.results import read_comparison
from fewshot_cli.storage.feature_cache import FeatureCache, NoCache

CPU = torch.device("cpu")
LABELS = ("cat", "fish", "house", "star", "tree")
QUICK = ("method.tuning.optim.steps=1", "method.tuning.optim.epochs=0")


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Two data sets of the same five classes, eight pictures each."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("day", "night")):
        write_folder(folder / name, LABELS, 8, seed=seed, size=64)
    return folder


@pytest.fixture
def run(weights, tmp_path) -> Callable[..., dict[str, Any]]:
    """`compare` on the tiny ViT; `changes` go to every recipe."""

    def run(
        path: Path,
        *names: str,
        episodes: int = 4,
        output: Path | None = None,
        changes: tuple[str, ...] = (),
        seed: int = 0,
        cache: FeatureCache | None = None,
        targets: tuple[str, ...] = (),
        **protocol: Any,
    ) -> dict[str, Any]:
        facts = {"name": "fixed", "way": 3, "shots": 2, "queries": 3} | protocol
        question = ComparisonSettings(
            tuple(read_datasets(path)), protocols(facts), episodes, seed, targets, (str(path),)
        )
        recipes = {
            name: load_recipe(name, changes, backbone="test_vit", image_size=64) for name in names or ("protonet",)
        }
        where = Source(weights["test_vit"], offline=True)
        output = output or tmp_path / "run.json"
        context = JobContext(where, CPU, cache or FeatureCache(), NoProgress(), Processes())
        result, written = compare(recipes, question, context, output)
        assert written == output
        return result.report()

    return run


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """All results but the seconds, which are never the same."""
    return {
        name: {row: {m: v for m, v in metrics.items() if m != "seconds"} for row, metrics in rows.items()}
        for name, rows in report["results"].items()
    }


@pytest.mark.slow
def test_the_report_says_what_was_asked_and_found(run, sets, tmp_path):
    report = run(sets, "protonet", "ridge", episodes=60)
    assert [row["name"] for row in report["rows"]] == ["day", "night"]
    assert report["data"]["day"]["images"] == 40 and report["data"]["day"]["classes"] == 5
    for name in ("protonet", "ridge"):
        for row in ("day", "night"):
            found = report["results"][name][row]
            assert {len(values) for values in found.values()} == {60}
            assert all(abs(9 * accuracy - round(9 * accuracy)) < 1e-5 for accuracy in found["accuracy"])
            mean = report["methods"][name]["datasets"][row]["accuracy"]
            assert mean == pytest.approx(np.mean(found["accuracy"]), abs=1e-5)
    assert {(pair["first"], pair["second"]) for pair in report["pairs"]} == {("protonet", "ridge")}
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["results"] == report["results"]
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.slow
def test_one_recipe_has_its_figures_at_the_top(run, sets):
    report = run(sets)
    assert report["method"] == "protonet"
    assert report["datasets"]["day"]["accuracy"] == report["methods"]["protonet"]["datasets"]["day"]["accuracy"]
    assert report["accuracy"] == pytest.approx(
        np.mean([found["accuracy"] for found in report["datasets"].values()]), abs=1e-6
    )


@pytest.mark.slow
def test_tasks_at_once_and_one_by_one_agree(vit, pictures, monkeypatch):
    images, labels = pictures((10, 10, 10), seed=3)
    pool = Pool("drawn", ("a", "b", "c"), labels.numpy(), np.zeros(30, np.int64), ("drawn",))
    episodes = EpisodeSource(
        pool, Fixed(way=3, shots=2, queries=3), ("drawn",), vit, vit.frozen_features(images), images, ""
    )
    for name in ("protonet", "ridge", "lda"):
        method = load_recipe(name).method
        (stacked,) = answer_block(method, episodes, 0, 0)
        with monkeypatch.context() as patch:
            patch.setattr(answering, "_of_one_shape", lambda episodes: False)
            (single,) = answer_block(method, episodes, 0, 0)
        assert stacked["accuracy"] == single["accuracy"]
        assert stacked["bytes"] == single["bytes"]
        np.testing.assert_allclose(stacked["nll"], single["nll"], atol=1e-4)
        np.testing.assert_allclose(stacked["ece"], single["ece"], atol=1e-4)


def test_figures_are_those_of_the_definition(vit, pictures):
    """One episode by hand: its support set adapted, its queries asked, the answers counted."""
    images, labels = pictures((10, 10, 10), seed=3)
    features = vit.frozen_features(images)
    pool = Pool("drawn", ("a", "b", "c"), labels.numpy(), np.zeros(30, np.int64), ("drawn",))
    protocol = Fixed(way=3, shots=1, queries=5)
    method = load_recipe("ridge").method
    (found,) = answer_block(method, EpisodeSource(pool, protocol, ("drawn",), vit, features, images, ""), 7, 0)
    (session,) = protocol.episode(pool, 7, 11).sessions
    head = method.head(features[session.support], torch.from_numpy(session.support_labels), 3)
    probabilities = head.logits(features[session.query]).softmax(1).double()
    truth = torch.from_numpy(session.query_labels)
    assert found["accuracy"][11] == pytest.approx(float((probabilities.argmax(1) == truth).double().mean()), abs=1e-6)
    likelihood = probabilities[torch.arange(15), truth].log()
    assert found["nll"][11] == pytest.approx(float(-likelihood.mean()), abs=1e-4)


@pytest.mark.slow
def test_a_method_that_trains_answers_with_its_moved_weights(run, sets):
    frozen = run(sets, "protonet")
    trained = run(sets, "norms", changes=("method.tuning.optim.lr=0.05", *QUICK))
    assert figures(frozen)["protonet"]["day"]["nll"] != figures(trained)["norms"]["day"]["nll"]
    assert trained["methods"]["norms"]["bytes"] > frozen["methods"]["protonet"]["bytes"]


@pytest.mark.slow
def test_every_recipe_sees_the_same_episodes_whatever_else_runs(run, sets, tmp_path):
    alone = figures(run(sets, "ridge", output=tmp_path / "a.json"))
    among = figures(run(sets, "protonet", "norms", "ridge", output=tmp_path / "b.json", changes=()))
    assert alone["ridge"] == among["ridge"]


@pytest.mark.slow
def test_more_episodes_go_on_from_fewer(run, sets, monkeypatch, tmp_path):
    done: list[int] = []
    original = answer_block
    monkeypatch.setattr(blocks, "answer_block", lambda *given: done.append(given[3]) or original(*given))
    few = run(sets / "day", "norms", episodes=2, changes=QUICK)
    more = run(sets / "day", "norms", episodes=5, changes=QUICK)
    assert done == [0, 1, 2, 3, 4]
    for metric, values in few["results"]["norms"]["day"].items():
        assert more["results"]["norms"]["day"][metric][:2] == values
    whole = run(sets / "day", "norms", episodes=5, changes=QUICK, output=tmp_path / "other.json")
    assert figures(whole) == figures(more)


@pytest.mark.slow
def test_a_finished_run_is_not_done_again(run, sets, monkeypatch):
    first = run(sets, "protonet", episodes=60)
    monkeypatch.setattr(blocks, "answer_block", None)
    assert run(sets, "protonet", episodes=60)["results"] == first["results"]
    fewer = run(sets, "protonet", episodes=7)["results"]["protonet"]["day"]["accuracy"]
    assert fewer == first["results"]["protonet"]["day"]["accuracy"][:7]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_stopped(run, sets, monkeypatch, tmp_path):
    done: list[tuple[str, int]] = []
    original = answer_block

    def interrupted(method, episodes, seed, start):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((episodes.pool.name, start))
        return original(method, episodes, seed, start)

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "answer_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(sets, "norms", episodes=2, changes=QUICK)
    assert (tmp_path / "run.json.partial").is_file() and not (tmp_path / "run.json").exists()
    with (tmp_path / "run.json.partial").open("a") as file:
        file.write('{"key": "cut sho')  # as a crash would leave it
    monkeypatch.setattr(
        blocks, "answer_block", lambda *given: done.append((given[1].pool.name, given[3])) or original(*given)
    )
    report = run(sets, "norms", episodes=2, changes=QUICK)
    assert sorted(done) == [("day", 0), ("day", 1), ("night", 0), ("night", 1)]
    assert not list(tmp_path.glob("*.partial*"))
    assert figures(report) == figures(run(sets, "norms", episodes=2, changes=QUICK, output=tmp_path / "whole.json"))


@pytest.mark.slow
def test_another_question_does_not_take_what_is_there(run, sets):
    before = figures(run(sets, seed=0))
    assert figures(run(sets, seed=1)) != before
    assert figures(run(sets, shots=1)) != before
    assert figures(run(sets, seed=0)) == before


@pytest.mark.slow
def test_features_are_computed_once_for_each_data_set(run, sets, passes):
    cache = FeatureCache()
    run(sets, "protonet", "ridge", "logistic", cache=cache)
    first = [number for number in passes if number > 1]  # one is a blank picture, to see whether the size fits
    assert 80 <= sum(first) <= 2 * 128  # each picture once, filled up to whole chunks
    run(sets, "lda", seed=5, cache=cache)
    assert [number for number in passes if number > 1] == first


@pytest.mark.slow
def test_several_shots_are_rows_of_their_own(run, sets):
    report = run(sets / "day", "protonet", episodes=100, shots=[1, 4])
    assert [row["name"] for row in report["rows"]] == ["day, 1 shot", "day, 4 shots"]
    assert [row["shots"] for row in report["rows"]] == [1, 4]
    one, four = (report["datasets"][row["name"]]["accuracy"] for row in report["rows"])
    assert four > one
    assert report["protocol"]["shots"] == [1, 4]


@pytest.mark.slow
def test_across_domains_learns_here_and_is_asked_there(run, sets):
    report = run(sets, name="across", targets=("night",))
    assert [row["data"] for row in report["rows"]] == ["day -> night"]
    both = run(sets, name="across")
    assert [row["data"] for row in both["rows"]] == ["day -> night", "night -> day"]
    left_out = run(sets, name="leave-one-out", way="all")
    assert len(left_out["rows"]) == 2


def test_in_distribution_stands_beside_the_shifted_data(run, sets, tmp_path):
    shutil.copytree(sets, tmp_path / "three")
    write_folder(tmp_path / "three" / "rain", LABELS, 8, seed=3, size=64)
    asked = {"name": "across", "in_distribution": True, "queries": "all", "targets": ("night", "rain")}
    report = run(tmp_path / "three", "protonet", "ridge", episodes=3, **asked)
    rows = report["rows"]
    assert [row["name"] for row in rows] == ["day, in distribution", "day -> night", "day -> rain"]
    assert [row["beside"] for row in rows] == [True, False, False]
    alone = run(sets / "day", "protonet", "ridge", episodes=3, queries="all", output=tmp_path / "alone.json")
    for name in ("protonet", "ridge"):
        own = report["results"][name]["day, in distribution"]["accuracy"]
        assert own == alone["results"][name]["day"]["accuracy"]
        method = report["methods"][name]
        shifted = [method["datasets"][row]["accuracy"] for row in ("day -> night", "day -> rain")]
        assert method["accuracy"] == pytest.approx(np.mean(shifted), abs=1e-6)
        both = np.mean([report["results"][name][row]["accuracy"] for row in ("day -> night", "day -> rain")], axis=0)
        assert method["ci95"] == pytest.approx(mean_interval(both).ci95, abs=1e-6)


def test_a_target_with_a_part_of_the_classes_is_answered_among_all(run, sets, tmp_path):
    """Right answers in two parts of a data set are those in the whole."""
    shutil.copytree(sets, tmp_path / "sets")
    for name, labels in (("few", LABELS[:2]), ("rest", LABELS[2:])):
        for label in labels:
            shutil.copytree(sets / "night" / label, tmp_path / "sets" / name / label)
    asked = {"name": "across", "in_distribution": True, "way": "all", "queries": "all"}
    report = run(tmp_path / "sets", "protonet", "norms", targets=("night", "few", "rest"), changes=(), **asked)
    for name in ("protonet", "norms"):
        whole, few, rest = (report["results"][name][f"day -> {part}"] for part in ("night", "few", "rest"))
        for of_whole, of_few, of_rest in zip(*(part["accuracy"] for part in (whole, few, rest)), strict=True):
            assert of_whole == pytest.approx(0.4 * of_few + 0.6 * of_rest, abs=1e-5)
            assert of_few < 1 or of_rest < 1
    for name in ("night", "rest"):
        shutil.rmtree(tmp_path / "sets" / name)
    alone = run(tmp_path / "sets", targets=("few",), output=tmp_path / "b.json", **(asked | {"in_distribution": False}))
    assert [row["data"] for row in alone["rows"]] == ["day -> few"]


def test_what_is_learned_once_is_asked_of_every_target(run, sets, monkeypatch):
    moved = []
    original = Finetune.move
    monkeypatch.setattr(Finetune, "move", lambda *given: moved.append(1) or original(*given))
    asked = {"name": "across", "in_distribution": True, "targets": ("night",)}
    report = run(sets, "norms", episodes=2, changes=QUICK, **asked)
    assert len(moved) == 2 and len(report["rows"]) == 2


def test_all_other_images_are_asked_about(run, sets):
    report = run(sets / "day", "protonet", episodes=3, way="all", shots=[1, 6], queries="all")
    for row, queries in (("day, 1 shot", 35), ("day, 6 shots", 10)):
        for accuracy in report["results"]["protonet"][row]["accuracy"]:
            assert abs(queries * accuracy - round(queries * accuracy)) < 1e-4
    assert "all classes, 1- and 6-shot, all other images" in markdown(read_comparison(report))


@pytest.mark.slow
def test_all_images_of_all_classes_are_one_episode(run, sets):
    report = run(sets, "ridge", name="leave-one-out", way="all", shots="all", queries="all", episodes=60)
    for row in report["rows"]:
        assert len(report["results"]["ridge"][row["name"]]["accuracy"]) == 1
        assert report["datasets"][row["name"]]["ci95"] is None


def test_joined_pictures_are_those_of_their_data_sets():
    parts = [torch.arange(0, 5), torch.arange(10, 13), torch.arange(20, 26)]
    joined = JoinedImages(tuple(parts))
    order = torch.tensor([13, 0, 5, 4, 7, 8, 0])
    assert joined[order].tolist() == torch.cat(parts)[order].tolist()
    assert len(joined) == 14


@pytest.mark.slow
def test_sessions_that_add_classes(run, sets):
    asked = {"name": "incremental", "base_way": 2, "way": 1, "sessions": 2}
    report = run(sets / "day", "protonet", "ridge", "lda", episodes=30, **asked)
    assert [row["name"] for row in report["rows"]] == [f"day, session {i}" for i in range(3)]
    base, _, last = (report["methods"]["protonet"]["datasets"][row["name"]] for row in report["rows"])
    assert base["accuracy"] > last["accuracy"] > 0.3  # more classes are harder; chance is a quarter
    with pytest.raises(FewshotError, match="norms can't add classes"):
        run(sets / "day", "norms", **asked)


def test_the_last_session_is_the_head_fitted_to_all(run, sets, monkeypatch):
    """Sessions may not look back at old images, and need not: the closed form gives what all images at once would."""
    asked = {"name": "incremental", "base_way": 2, "way": 3, "sessions": 1, "base_shots": 2, "shots": 2}
    grown = run(sets / "day", "ridge", episodes=50, **asked)
    at_once = run(sets / "day", "ridge", episodes=50, way="all")
    means = [
        np.mean(grown["results"]["ridge"]["day, session 1"]["accuracy"]),
        np.mean(at_once["results"]["ridge"]["day"]["accuracy"]),
    ]
    assert means[0] == pytest.approx(means[1], abs=0.08)  # other episodes of the same pool


def test_an_unreadable_picture_is_named_and_left_out(run, tmp_path):
    write_folder(tmp_path / "mine", LABELS[:3], 6, seed=0, size=64)
    broken = next((tmp_path / "mine" / "cat").iterdir())
    broken.write_bytes(b"no picture")
    report = run(tmp_path / "mine")
    assert report["data"]["mine"]["images"] == 17
    assert [skipped["path"] for skipped in report["data"]["mine"]["skipped"]] == [str(broken)]
    again = run(tmp_path / "mine", seed=1)
    assert again["data"]["mine"]["hash"] == report["data"]["mine"]["hash"]
    assert len(again["data"]["mine"]["skipped"]) == 1


def test_data_too_small_for_the_protocol_is_said_before_anything_is_done(run, sets, passes):
    with pytest.raises(FewshotError, match=r"day.* 5 classes"):
        run(sets, way=6)
    with pytest.raises(FewshotError, match="'cat'"):
        run(sets, shots=6)
    assert not passes


@pytest.mark.slow
def test_a_run_can_be_repeated(run, sets, weights, tmp_path):
    run(sets, "ridge", "norms", episodes=2, changes=QUICK[:0])
    path = tmp_path / "run.json"
    where = Source(weights["test_vit"], offline=True)
    before = path.read_bytes()

    def again(data: tuple[Path, ...] = ()) -> dict[str, Any]:
        return repeat(path, data, JobContext(where, CPU, NoCache(), NoProgress(), Processes())).report()

    assert again()["differences"] == 0
    assert path.read_bytes() == before
    assert again((sets,))["checked"] == str(path)

    record = json.loads(before)
    record["results"]["ridge"]["day"]["accuracy"][1] += 1 / 9
    record["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(record))
    with pytest.raises(CheckFailed, match="ridge on day: accuracy differs in 1 episodes, first in 1") as caught:
        again()
    assert "It was made with torch 1.0 (now " in caught.value.hint


def test_a_repeated_figure_may_be_off_by_the_last_bits(run, sets, weights, tmp_path):
    """A large `nll` by its rounding, one `ece` by an answer on the other side of a bin's edge; nothing else."""
    run(sets, "ridge", episodes=4)
    path, where = tmp_path / "run.json", Source(weights["test_vit"], offline=True)
    record = json.loads(path.read_text())
    found = record["results"]["ridge"]["day"]

    def differences(metric: str, change: float) -> list[str]:
        values = [*found[metric][:-1], found[metric][-1] + change]
        changed = {"ridge": {"day": found | {metric: values}}}
        again = repeat(path, (), JobContext(where, CPU, NoCache(), NoProgress(), Processes()))
        return list(figures_that_differ(record | {"results": changed}, again))

    assert not differences("nll", 5e-5)
    assert differences("nll", 1e-3)
    assert not differences("ece", 0.03)
    assert differences("ece", 0.1)
    assert differences("accuracy", 1e-9)


def test_repeating_notices_other_data(run, weights, tmp_path):
    write_folder(tmp_path / "mine", LABELS[:3], 6, seed=0, size=64)
    run(tmp_path / "mine")
    write_folder(tmp_path / "mine", LABELS[:3], 6, seed=1, size=64)
    where = Source(weights["test_vit"], offline=True)
    with pytest.raises(CheckFailed, match="mine: the pictures or their classes have changed"):
        repeat(tmp_path / "run.json", (), JobContext(where, CPU, NoCache(), NoProgress(), Processes()))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"results": 1}', "\x00"])
def test_a_file_that_is_no_run_is_an_error(content, tmp_path, source):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(FewshotError, match=r"run\.json"):
        repeat(tmp_path / "run.json", (), JobContext(source, CPU, NoCache(), NoProgress(), Processes()))


def test_all_mistakes_in_a_protocol_are_listed():
    with pytest.raises(FewshotError) as caught:
        protocols({"name": "fixed", "way": 1, "shots": 0, "colour": 3})
    for word in ("way", "shots", "colour"):
        assert word in caught.value.problem


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"way": 1}, "--way: should be greater than or equal to 2, or 'all' (given: 1)"),
        ({"way": "some"}, "--way: should be a valid integer"),
        ({"shots": [1, 0]}, "--shots: should be greater than or equal to 1 (given: 0)"),
        ({"queries": "few"}, "--queries: should be a valid integer"),
        ({"base_way": 2}, "--base-way: this protocol has no such setting"),
        ({"name": "incremental", "sessions": 0}, "--sessions: should be greater than or equal to 1"),
        ({"name": "meta-dataset", "max_way": 1}, "--set protocol.max_way: should be greater"),
        ({"name": "meta-dataset", "max_way": 6, "min_way": 7}, "min_way 7 is more than max_way 6"),
        ({"name": "odd"}, "--protocol: there is none of that name; there are 'fixed'"),
        ({"colour": 1}, "--set protocol.colour: this protocol has no such setting"),
    ],
)
def test_mistakes_in_a_protocol_name_the_option(facts, says):
    with pytest.raises(FewshotError) as caught:
        protocols({"name": "fixed"} | facts)
    _, mistake = caught.value.problem.split("\n")
    assert says in mistake
    assert not any(word in mistake for word in ("constrained", "literal[", "int:", "union"))


@pytest.mark.slow
def test_transductive_recipes_are_marked_and_see_all_queries_of_a_task(run, sets, monkeypatch):
    seen = []
    original = TIM.answers

    def counted(self, features, labels, way, queries):
        seen.append((len(features), len(queries)))
        return original(self, features, labels, way, queries)

    monkeypatch.setattr(TIM, "answers", counted)
    report = run(sets, "tim", changes=("method.steps=5",), episodes=2)
    assert report["transductive"] == ["tim"]
    assert set(seen) == {(6, 9)}  # three classes, two shots, three queries each
    assert "transductive, answering about all queries of a task at once: tim" in markdown(read_comparison(report))
    assert "transductive" not in markdown(read_comparison(run(sets, episodes=2)))


@pytest.mark.slow
def test_what_moves_and_grafts_cost_is_counted_with_the_head(run, sets):
    report = run(sets, "moa", changes=("method.tuning.optim.steps=0", "method.form=lora"), episodes=1)
    (size, _) = (found["bytes"][0] for found in report["results"]["moa"].values())
    ranks, router = 1 + 2 + 4 + 8, 256 * (64 + 1 + 4) + 1
    blocks = sum(name.endswith("attn.qkv.weight") for name in parameter_shapes("test_vit", 64))
    assert size > 2 * -(-blocks // 2) * (ranks * (64 + 192) + router)


def test_a_method_hears_the_names_of_the_classes(run, sets, monkeypatch):
    heard = []
    original = Finetune.move

    def listening(self, backbone, support, run):
        heard.append(support.classes)
        return original(self, backbone, support, run)

    monkeypatch.setattr(Finetune, "move", listening)
    run(sets, "finetune", changes=("method.tuning.optim.steps=0",), episodes=2)
    assert all(len(names) == 3 == len(set(names)) for names in heard) and len(heard) == 4
    folders = {path.name for path in (sets / "day").iterdir()}
    assert {name for names in heard for name in names} <= folders


@pytest.mark.slow
def test_names_csv_is_read_and_other_words_are_another_question(towers_file, tmp_path):
    """The second run goes on from the record of the first, but for what other words change."""
    write_folder(tmp_path / "drawn", LABELS[:3], 4, seed=0, size=64)
    context = JobContext(Source(towers_file, offline=True), CPU, NoCache(), NoProgress(), Processes())
    recipes = {"zero-shot": load_recipe("zero-shot", backbone="clip:tiny")}

    def nll() -> float:
        facts = {"name": "fixed", "way": 3, "shots": 1, "queries": 2}
        question = ComparisonSettings(tuple(read_datasets(tmp_path / "drawn")), protocols(facts), 2, 0, (), ("drawn",))
        result, _ = compare(recipes, question, context, tmp_path / "run.json")
        return result.report()["results"]["zero-shot"]["drawn"]["nll"]

    plain = nll()
    words = tmp_path / "drawn" / "names.csv"
    words.write_text("class,description\ncat,a small tiger\nfish,what swims\n")
    assert nll() != plain
    words.write_text("class,description\ncat,cat\n")
    assert nll() == plain
    words.write_text("class,description\ndog,a pet\n")
    with pytest.raises(FewshotError, match=r"names.csv, line 2: there is no class 'dog'"):
        nll()
