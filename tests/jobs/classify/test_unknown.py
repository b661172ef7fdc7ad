import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_cli.engine.delta.merging import merge_rule
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.classify import predict as predicting
from fewshot_cli.jobs.classify.prediction.inputs import Promises, check_promises
from fewshot_cli.jobs.classify.prediction.rows import RowSettings
from fewshot_cli.jobs.classify.prediction.rules import Rules
from fewshot_cli.jobs.classify.prediction.sorting import Sorting
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.edit.rename_class import rename_class
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share.compose import ComposeSettings, compose
from fewshot_cli.reports.terminal.predict import Rows
from fewshot_cli.storage.feature_cache import NoCache


@pytest.fixture
def ask(source):
    def ask(file, *inputs, refuse=None, sets=None, sorting=None):
        context = JobContext(source, torch.device("cpu"), NoCache(), NoProgress())
        how = RowSettings(promises=Promises(refuse, sets))
        return predicting.predict([file], inputs, context, how=how, sorting=sorting)

    return ask


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Path:
    """Ten pictures each of three things; not to be changed."""
    folder = tmp_path_factory.mktemp("many")
    write_folder(folder, ("cat", "house", "star"), 10, seed=0, size=32)
    return folder


@pytest.fixture
def noise(tmp_path) -> Path:
    """Pictures of nothing."""
    folder = tmp_path / "noise"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def file(many, tmp_path, learn):
    learn(many, tmp_path / "x.fewshot", "cosine-ridge")
    return tmp_path / "x.fewshot"


def test_refused_pictures_are_unknown_and_the_others_are_answered_as_ever(file, unseen, ask):
    ruled, plain = ask(file, unseen, refuse=0.5), ask(file, unseen)
    assert 0.2 < ruled.unknown < 0.9
    assert sum(row.label == "unknown" for row in ruled) == round(15 * ruled.unknown)
    for row, before in zip(ruled, plain, strict=True):
        assert row.top == before.top
        assert row.error is None
        if row.label == "unknown":
            assert row.probability is None
        else:
            assert row == before
    assert plain.unknown is None and "unknown" not in plain.report()


def test_a_larger_share_refuses_more(file, unseen, ask):
    shares = [ask(file, unseen, refuse=share).unknown for share in (0.05, 0.3, 0.6, 0.95)]
    assert shares == sorted(shares)
    assert shares[-1] > shares[0]


def test_sets_hold_the_likeliest_label_first_and_more_labels_for_more_coverage(file, unseen, ask):
    narrow, wide = ask(file, unseen, sets=0.5), ask(file, unseen, sets=0.9)
    for few, some, row in zip(narrow, wide, ask(file, unseen), strict=True):
        assert few.label == some.label == row.label == few.labels[0]
        assert set(few.labels) <= set(some.labels)
    assert sum(len(row.labels) for row in wide) > sum(len(row.labels) for row in narrow)
    right = [Path(row.path).parent.name in row.labels for row in wide]
    assert np.mean(right) >= 0.75
    assert wide.report()["coverage"] == 0.9
    assert wide.report()["coverage_by_class"] is True
    assert narrow.report()["predictions"][0]["labels"]


def test_where_a_class_has_too_few_images_sets_are_promised_for_all_together(tmp_path, drawn, learn, unseen, ask):
    learn(drawn, tmp_path / "few.fewshot", "cosine-ridge")  # four of each: by itself a class allows 0.8
    assert ask(tmp_path / "few.fewshot", unseen, sets=0.8).coverage_by_class is True
    assert ask(tmp_path / "few.fewshot", unseen, sets=0.9).coverage_by_class is False


def test_too_few_images_are_told_with_what_they_allow(tmp_path, drawn, learn, unseen, ask):
    file = tmp_path / "few.fewshot"
    learn(drawn, file, "cosine-ridge")
    with pytest.raises(FewshotError, match=r"has 12 held-out images; --refuse 0.01 takes 99") as told:
        ask(file, unseen, refuse=0.01)
    assert "--refuse 0.08 or more" in told.value.hint
    assert ask(file, unseen, refuse=0.08).unknown is not None
    with pytest.raises(FewshotError, match=r"has 12 held-out images; --sets 0.99 takes 99") as told:
        ask(file, unseen, sets=0.99)
    assert "--sets 0.92 or less" in told.value.hint
    assert ask(file, unseen, sets=0.92).coverage == 0.92


def test_the_header_alone_tells_it(tmp_path, file):
    check_promises([file], Promises(refuse=0.1, sets=0.9))
    with pytest.raises(FewshotError, match="takes 99"):
        check_promises([file], Promises(refuse=0.01))


def test_a_file_without_held_out_answers_promises_nothing(tmp_path, many, learn, unseen, ask, file):
    learn(many, tmp_path / "y.fewshot", "cosine-ridge", seed=1)
    both = tmp_path / "both.fewshot"
    compose([file, tmp_path / "y.fewshot"], both, ComposeSettings(merge_rule("add", None)), NoProgress())
    with pytest.raises(FewshotError, match="has no answers about held-out images"):
        ask(both, unseen, refuse=0.5)
    with pytest.raises(FewshotError, match="has no answers about held-out images"):
        check_promises([both], Promises(refuse=0.5))


def test_a_folder_of_negatives_is_the_class_unknown(tmp_path, photos, noise, learn, ask, unseen):
    noise.rename(photos / "_unknown")
    assert read_labelled(photos).classes == ("cat", "house", "star", "unknown")
    report = learn(photos, tmp_path / "x.fewshot", "cosine-ridge")
    assert report["classes"] == ["cat", "house", "star", "unknown"]
    file = tmp_path / "x.fewshot"
    held_out = read_delta_file(file).header.provenance.held_out
    assert held_out.score == "energy"
    assert len(held_out.known) == 12
    assert [len(scores) for scores in held_out.nonconformity] == [4, 4, 4, 12]
    answers = ask(file, photos / "_unknown")
    assert {row.label for row in answers} == {"unknown"}
    assert answers.unknown == 1
    assert all(row.probability > 0.3 for row in answers)
    assert ask(file, unseen).unknown < 0.5
    # with a share to refuse, the score alone decides
    for row in ask(file, photos / "_unknown", unseen, refuse=0.3):
        if row.label != "unknown":
            best = max((name for name in row.top if name[0] != "unknown"), key=lambda name: name[1])
            assert (row.label, row.probability) == best
        else:
            assert row.probability is None


def test_negatives_in_a_list_are_the_class_unknown_too(tmp_path, photos, noise):
    noise.rename(photos / "_unknown")
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(photos.glob("*/*"))]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    labelled = read_labelled(tmp_path / "list.csv")
    assert labelled.classes == ("cat", "house", "star", "unknown")
    assert [item.label for item in labelled.items] == sorted(item.label for item in labelled.items)
    assert sum(item.label == "unknown" for item in labelled.items) == 12


def test_refused_pictures_are_sorted_into_a_folder_of_their_own(file, unseen, tmp_path, ask):
    sorting = Sorting(tmp_path / "sorted")
    result = ask(file, unseen, refuse=0.5, sorting=sorting)
    refused = sum(row.label == "unknown" for row in result)
    assert len([*(tmp_path / "sorted" / "unknown").iterdir()]) == refused > 0


def test_csv_has_the_set_and_no_probability_of_what_is_refused(file, unseen, ask):
    text = io.StringIO()
    rows = [*ask(file, unseen, refuse=0.5, sets=0.9)]
    Rows(text, several=False, sets=True).add(rows)
    found = [*csv.DictReader(io.StringIO(text.getvalue()))]
    assert [row["labels"] for row in found] == [" | ".join(row.labels) for row in rows]
    for cells, row in zip(found, rows, strict=True):
        assert (cells["probability"] == "") == (cells["label"] == "unknown") == (row.labels == ())


def test_a_new_name_keeps_what_is_promised_of_each_class(file, tmp_path, unseen, ask):
    rename_class(file, "cat", "zebra", tmp_path / "y.fewshot")
    before, after = ask(file, unseen, refuse=0.2, sets=0.8), ask(tmp_path / "y.fewshot", unseen, refuse=0.2, sets=0.8)
    for old, new in zip(before, after, strict=True):
        assert new.labels == tuple("zebra" if name == "cat" else name for name in old.labels)
        assert (new.label == "unknown") == (old.label == "unknown")
    rename_class(file, "cat", "unknown", tmp_path / "z.fewshot")
    assert read_delta_file(tmp_path / "z.fewshot").header.provenance.held_out is None


def test_the_threshold_is_that_of_the_held_out_images(file):
    read = read_delta_file(file)
    known = read.header.provenance.held_out.known
    rules = Rules.of(read, file, Promises(refuse=0.5))
    assert rules.refused_below == pytest.approx(np.quantile(known, 0.5, method="weibull"))
    assert len(known) == 30 and list(known) == sorted(known)
