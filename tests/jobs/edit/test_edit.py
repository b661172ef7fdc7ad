"""Classes and images come and go: every classifier is the one that learning from all its images at once gives."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from fewshot_cli.engine.head.ridge import ridge_head
from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.edit import refit as refitting
from fewshot_cli.jobs.edit.add_class import add_class
from fewshot_cli.jobs.edit.correct import correct
from fewshot_cli.jobs.edit.remove_class import remove_class
from fewshot_cli.jobs.edit.rename_class import rename_class
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.proofs.contents import has_contents
from fewshot_cli.jobs.share.describe import inspect
from fewshot_cli.jobs.share.verify import verify
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")
CLOSED = ["ridge", "lda", "gaussian", "cosine-ridge", "protonet", "protonet-euclidean"]
TRAINED = ("method.tuning.optim.steps=2", "method.tuning.optim.epochs=0")


@pytest.fixture
def grow(source):
    def grow(file, folder, output, name=None, where=source):
        return add_class(file, folder, name, output, JobContext(where, CPU, NoCache(), NoProgress())).report()

    return grow


@pytest.fixture
def told(source):
    def told(file, listed, output):
        return correct(file, listed, output, JobContext(source, CPU, NoCache(), NoProgress())).report()

    return told


@pytest.fixture
def kept(learn, tmp_path):
    """Learns from a folder and keeps its features; gives the file's path."""

    def kept(folder: Path, name: str, recipe: str = "ridge", *changes: str, **options) -> Path:
        learn(folder, tmp_path / name, recipe, *changes, keep_support=True, **options)
        return tmp_path / name

    return kept


@pytest.fixture
def two(photos, tmp_path) -> tuple[Path, Path]:
    """Two of the three classes in a folder, and the folder of the third."""
    (tmp_path / "two").mkdir()
    for name in ("cat", "star"):
        shutil.copytree(photos / name, tmp_path / "two" / name)
    return tmp_path / "two", photos / "house"


def removed(*given):
    return remove_class(*given).report()


def renamed(*given):
    return rename_class(*given).report()


def logits(path: Path, features: torch.Tensor) -> torch.Tensor:
    return read_delta_file(path).head.logits(features)


def same_answers(one: Path, other: Path) -> None:
    """Both say the same of features that neither has seen, up to the rounding of the features that they keep."""
    first, second = read_delta_file(one), read_delta_file(other)
    assert first.header.classes == second.header.classes
    features = first.support.features.mean(0) + first.support.features.std() * torch.randn(
        50, first.support.features.shape[1], generator=torch.Generator().manual_seed(0)
    )
    a, b = first.head.logits(features), second.head.logits(features)
    assert (a - b).abs().max() < 4e-3 * a.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", CLOSED)
def test_a_class_added_is_as_if_learned_with_the_others(two, photos, kept, grow, tmp_path, recipe):
    folder, house = two
    all_at_once = kept(photos, "all.fewshot", recipe)
    report = grow(kept(folder, "two.fewshot", recipe), house, tmp_path / "grown.fewshot")
    same_answers(all_at_once, tmp_path / "grown.fewshot")
    assert report["added"] == {"house": 4} and report["more"] == {} and report["images"] == 12
    assert report["classes"] == ["cat", "house", "star"]
    assert report["expected_accuracy"] == json.loads(Path(f"{all_at_once}.run.json").read_text())["expected_accuracy"]


@pytest.mark.slow
def test_a_class_removed_is_as_if_never_learned(two, photos, kept, tmp_path):
    file = kept(photos, "all.fewshot")
    report = removed(file, "house", tmp_path / "less.fewshot")
    same_answers(kept(two[0], "two.fewshot"), tmp_path / "less.fewshot")
    assert report["removed"] == {"house": 4} and report["old"]["n"] == 8


@pytest.mark.slow
def test_in_whatever_order_classes_come_the_answers_are_the_same(photos, kept, grow, tmp_path):
    write_folder(tmp_path / "new", ("fish", "tree"), 3, seed=4, size=64)
    file = kept(photos, "x.fewshot")
    for name, order in (("ab", ("fish", "tree")), ("ba", ("tree", "fish"))):
        shutil.copy(file, tmp_path / f"{name}.fewshot")
        for label in order:
            grow(tmp_path / f"{name}.fewshot", tmp_path / "new" / label, tmp_path / f"{name}.fewshot")
    grow(file, tmp_path / "new", tmp_path / "both.fewshot")
    features = read_delta_file(file).support.features
    one = logits(tmp_path / "ab.fewshot", features)
    for name in ("ba", "both"):
        assert (logits(tmp_path / f"{name}.fewshot", features) - one).abs().max() < 1e-4 * one.abs().max()


def test_a_class_that_is_known_gets_more_images(photos, unseen, kept, grow, tmp_path):
    file = kept(photos, "x.fewshot")
    report = grow(file, unseen / "cat", tmp_path / "more.fewshot")
    assert report["more"] == {"cat": 5} and report["added"] == {}
    assert report["images"] == 17 and len(report["classes"]) == 3


@pytest.mark.slow
def test_what_the_old_classes_lose_is_told_as_held_out_answers_say(photos, kept, grow, tmp_path):
    write_folder(tmp_path / "new", ("fish",), 3, seed=4, size=64)
    file = kept(photos, "x.fewshot")
    report = grow(file, tmp_path / "new" / "fish", tmp_path / "y.fewshot")
    for path, name in ((file, "before"), (tmp_path / "y.fewshot", "after")):
        support = read_delta_file(path).support
        way = int(support.labels.max()) + 1
        right = 0
        for row in range(12):  # the images of the old classes come first
            others = [other for other in range(len(support.labels)) if other != row]
            head = ridge_head(support.features[others], support.labels[others], way)
            right += int(head.logits(support.features[row : row + 1]).argmax()) == int(support.labels[row])
        assert report["old"][name]["mean"] == report[f"accuracy_{name}"] == right / 12
    assert report["old"]["n"] == 12


def test_rows_kept_and_hashes_are_of_the_same_images(photos, kept, tmp_path, source):
    """Or else a correction would meet another image than the one that it names."""
    from fewshot_cli.images.image_ref import StoredFile
    from fewshot_cli.jobs.features import embed
    from fewshot_cli.jobs.models.classifiers import load_model

    file = kept(photos, "x.fewshot")
    found, loaded = read_delta_file(file), load_model(file, source, CPU)
    paths = sorted(photos.rglob("*.*"))
    seen = embed(loaded.backbone, [StoredFile(path) for path in paths], NoCache(), NoProgress())
    for content, features, path in zip(seen.contents, seen.features, paths, strict=True):
        row = found.header.provenance.learned_from.index(content[:12])
        assert torch.allclose(found.support.features[row], features, rtol=1e-3, atol=1e-3)
        assert found.header.classes[int(found.support.labels[row])] == path.parent.name


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ridge", "tim", "bitfit"])
def test_another_name_changes_no_answer(photos, kept, tmp_path, predict, recipe, source):
    changes = {"tim": ("method.steps=5",), "bitfit": TRAINED}.get(recipe, ())
    file = kept(photos, "x.fewshot", recipe, *changes, values="float16")
    report = renamed(file, "cat", "zebra", tmp_path / "y.fewshot")
    assert report["classes"] == ["house", "star", "zebra"] and report["renamed"] == {"cat": "zebra"}
    before, after = (predict(path, photos)["predictions"] for path in (file, tmp_path / "y.fewshot"))
    for one, other in zip(before, after, strict=True):
        wanted = {("zebra" if name == "cat" else name): share for name, share in one["top"]}
        assert dict(map(tuple, other["top"])) == pytest.approx(wanted, abs=1e-5)
        assert other["label"] == ("zebra" if one["label"] == "cat" else one["label"])
    assert verify(tmp_path / "y.fewshot", source, CPU)


def test_a_plain_file_without_features_can_be_renamed(photos, learn, tmp_path):
    learn(photos, tmp_path / "x.fewshot", values="float16")
    rename_class(tmp_path / "x.fewshot", "cat", "zebra", tmp_path / "y.fewshot")
    old, new = (read_delta_file(tmp_path / f"{name}.fewshot") for name in "xy")
    assert torch.equal(new.head.weight, old.head.weight[[1, 2, 0]])
    assert new.stored == old.stored and new.header.provenance.parents == (old.digest,)


@pytest.mark.slow
def test_a_label_corrected_is_as_if_it_had_been_right(photos, kept, told, tmp_path):
    right = kept(photos, "right.fewshot")
    wrong = sorted((photos / "cat").iterdir())[0]
    wrong.rename(photos / "star" / "wrong.jpg")
    file = kept(photos, "x.fewshot")
    (tmp_path / "list.csv").write_text("path,label\nphotos/star/wrong.jpg,cat\n")
    report = told(file, tmp_path / "list.csv", tmp_path / "y.fewshot")
    assert report["corrected"] == [{"path": str(photos / "star" / "wrong.jpg"), "was": "star", "is": "cat"}]
    assert report["learned"] == 0
    same_answers(right, tmp_path / "y.fewshot")


@pytest.mark.slow
def test_new_pictures_in_a_list_are_learned_from(photos, unseen, kept, told, tmp_path):
    file = kept(photos, "x.fewshot")
    new = sorted((unseen / "cat").iterdir())[:2]
    known = sorted((photos / "star").iterdir())[0]
    listed = tmp_path / "list.csv"
    rows = [f"{new[0]},0.7,star,cat", f"{new[1]},0.9,cat,", f"{known},0.9,star,star", f"{tmp_path / 'no.jpg'},,,cat"]
    listed.write_text("\n".join(["path,probability,label,correct", *rows]) + "\n")
    report = told(file, listed, tmp_path / "y.fewshot")
    assert report["learned"] == 1 and report["corrected"] == []
    assert [item["path"] for item in report["skipped"]] == [str(tmp_path / "no.jpg")]
    assert read_delta_file(tmp_path / "y.fewshot").support.labels.tolist().count(0) == 5


@pytest.mark.slow
def test_a_moved_backbone_stays_and_its_head_is_fitted_anew(two, kept, grow, tmp_path, source, predict):
    folder, house = two
    file = kept(folder, "x.fewshot", "bitfit-ridge", *TRAINED, values="float16")
    report = grow(file, house, tmp_path / "y.fewshot")
    old, new = read_delta_file(file), read_delta_file(tmp_path / "y.fewshot")
    assert has_contents(new, old.delta, old.graft, new.head) and new.header.touched == old.header.touched
    assert report["expected_accuracy"]["mean"] is None and "eval" in report["expected_accuracy"]["how"]
    assert report["accuracy_before"] is not None and report["accuracy_after"] is not None
    assert verify(tmp_path / "y.fewshot", source, CPU)
    kept_features = new.head.logits(new.support.features[-4:]).argmax(1).tolist()
    seen = [row["label"] for row in predict(tmp_path / "y.fewshot", house)["predictions"]]
    assert seen == [new.header.classes[label] for label in kept_features]
    back = tmp_path / "back.fewshot"
    remove_class(tmp_path / "y.fewshot", "house", back)  # the head's sharpening came along
    features = old.support.features
    assert (logits(back, features) - logits(file, features)).abs().max() < 0.02 * logits(file, features).abs().max()


@pytest.mark.slow
def test_the_file_names_what_it_comes_from(two, kept, grow, tmp_path):
    file = kept(two[0], "two.fewshot")
    grow(file, two[1], tmp_path / "grown.fewshot")
    rename_class(tmp_path / "grown.fewshot", "house", "home", tmp_path / "last.fewshot")
    chain = inspect(tmp_path / "last.fewshot").report()["chain"]
    (grown,) = chain["parents"]
    (first,) = grown["parents"]
    assert [link["classes"] for link in (chain, grown, first)] == [
        ["cat", "home", "star"],
        ["cat", "house", "star"],
        ["cat", "star"],
    ]
    assert first["sha256"] == read_delta_file(file).digest and not first["parents"]


@pytest.mark.slow
def test_in_place_all_or_nothing(photos, kept, tmp_path, monkeypatch):
    file = kept(photos, "x.fewshot")
    before = file.read_bytes()

    def broken(*given):
        raise CheckFailed("broken", "")

    with monkeypatch.context() as patch:
        patch.setattr(refitting, "_prove", broken)
        with pytest.raises(CheckFailed):
            remove_class(file, "cat", file)
    assert file.read_bytes() == before
    report = removed(file, "cat", file)
    assert report["in_place"] and read_delta_file(file).header.classes == ("house", "star")
    assert json.loads(Path(f"{file}.run.json").read_text())["command"] == "remove-class"
    assert not list(tmp_path.glob(".*.part"))


def test_what_was_written_wrong_is_not_kept(photos, kept, tmp_path, monkeypatch):
    file = kept(photos, "x.fewshot")
    original = refitting.write_delta_file

    def other_head(draft, header, delta, head, *rest):
        return original(draft, header, delta, head.sharpened(1.01), *rest)

    monkeypatch.setattr(refitting, "write_delta_file", other_head)
    with pytest.raises(CheckFailed, match="does not hold"):
        remove_class(file, "cat", tmp_path / "y.fewshot")
    assert not (tmp_path / "y.fewshot").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "changes"), [("logistic", ()), ("tim", ("method.steps=2",)), ("bitfit", TRAINED), ("moa", TRAINED)]
)
def test_a_head_that_is_no_formula_is_refused(photos, kept, tmp_path, recipe, changes):
    file = kept(photos, "x.fewshot", recipe, *changes)
    with pytest.raises(FewshotError, match="can't be fitted anew") as refused:
        remove_class(file, "cat", tmp_path / "y.fewshot")
    assert "head" in refused.value.hint


@pytest.mark.slow
def test_what_can_not_be_done_is_a_sentence(photos, two, learn, kept, grow, told, tmp_path):
    file, output = kept(photos, "x.fewshot"), tmp_path / "y.fewshot"
    learn(photos, tmp_path / "plain.fewshot")
    small = kept(two[0], "small.fewshot")

    def refused(match, call, *given):
        with pytest.raises(FewshotError, match=match) as error:
            call(*given)
        assert error.value.hint and not output.exists()

    refused("doesn't keep the features", remove_class, tmp_path / "plain.fewshot", "cat", output)
    refused("no class 'cot'", remove_class, file, "cot", output)
    refused("nothing to tell apart", remove_class, small, "cat", output)
    refused("has a class 'star' already", rename_class, file, "cat", "star", output)
    refused("can't be called", rename_class, file, "cat", " ", output)
    refused("is not there", grow, file, tmp_path / "nowhere", output)
    (tmp_path / "empty").mkdir()
    refused("no image", grow, file, tmp_path / "empty", output)
    refused("nothing to add: .* known already", grow, file, photos / "cat", output)
    refused("knows it as 'cat'", grow, file, photos / "cat", output, "dog")
    (tmp_path / "mixed" / "inner").mkdir(parents=True)
    shutil.copy(sorted((photos / "cat").iterdir())[0], tmp_path / "mixed" / "1.jpg")
    refused("both images", grow, file, tmp_path / "mixed", output)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.jpg").write_bytes(b"no picture")
    refused("No image of the class 'bad' can be used", grow, file, tmp_path / "bad", output)
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\nphotos/cat/cat-000.jpg,dog\n")
    refused("no class 'dog'", told, file, listed, output)
    listed.write_text("path,label\nphotos/cat/cat-000.jpg,cat\n")
    refused("says nothing", told, file, listed, output)
    listed.write_text("path,label\nphotos/cat/cat-000.jpg,cat\nphotos/cat/cat-000.jpg,star\n")
    refused("line 3: .* is 'star' here and 'cat' before", told, file, listed, output)
    listed.write_text("path,label\n" + "".join(f"photos/cat/cat-00{i}.jpg,star\n" for i in range(4)))
    refused("No image of the class 'cat' would be left", told, file, listed, output)


def test_a_folder_with_folders_inside_is_one_class_if_it_gets_a_name(photos, kept, grow, tmp_path):
    write_folder(tmp_path / "new", ("fish", "tree"), 2, seed=4, size=64)
    report = grow(kept(photos, "x.fewshot"), tmp_path / "new", tmp_path / "y.fewshot", "thing")
    assert report["added"] == {"thing": 4}
