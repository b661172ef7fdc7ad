from itertools import permutations

import pytest
import torch

from fewshot_cli.engine.delta.change import Change, Delta, Dense, LowRank, Sparse, merge
from fewshot_cli.engine.delta.merging import merge_rule
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_delta_file, write_delta_file
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share import compose as composing
from fewshot_cli.jobs.share.compose import ComposeSettings
from fewshot_cli.jobs.share.describe import inspect
from fewshot_cli.jobs.share.verify import verify

CPU = torch.device("cpu")
QUICK = "method.tuning.optim.steps=2"


@pytest.fixture
def compose(tmp_path):
    def compose(*files, output=tmp_path / "all.fewshot", rule="add", density=None, **how):
        return composing.compose(
            files, output, ComposeSettings(merge_rule(rule, density), **how), NoProgress()
        ).report()

    return compose


@pytest.fixture
def written(drawn, tmp_path, learn, vit):
    """Writes a delta file with this delta and head on the tiny model; gives its path."""
    learn(drawn, tmp_path / "template.fewshot")
    template = read_delta_file(tmp_path / "template.fewshot")

    def written(name: str, delta: Delta, classes=("cat", "star"), head: Head | None = None, values="float32"):
        found = template.header.model_copy(
            update={
                "classes": tuple(classes),
                "unit_norm": head.unit_norm if head else False,
                "shapes": {name: tuple(change.shape) for name, change in delta.items()},
                "provenance": template.header.provenance.model_copy(update={"data": name}),
            }
        )
        rng = torch.Generator().manual_seed(len(name))
        head = head or Head(torch.randn(len(classes), vit.dim, generator=rng), torch.zeros(len(classes)), False)
        path = tmp_path / f"{name}.fewshot"
        write_delta_file(path, found, delta, head, values)
        return path

    return written


def disjoint_deltas(vit, users: int = 3) -> list[dict[str, Change]]:
    rng = torch.Generator().manual_seed(0)
    names = [name for name, values in vit.params.items() if values.ndim > 1][:5]
    owners = {name: torch.randint(0, 2 * users, (vit.params[name].numel(),), generator=rng) for name in names}
    deltas = []
    for user in range(users):
        places = {name: (owner == user).nonzero().squeeze(1) for name, owner in owners.items()}
        changes: dict[str, Change] = {
            name: Sparse(tuple(vit.params[name].shape), at, torch.randn(len(at), generator=rng))
            for name, at in places.items()
        }
        deltas.append(changes)
    return deltas


@pytest.mark.slow
def test_disjoint_deltas_compose_exactly_and_to_one_file_in_any_order(written, compose, vit, tmp_path):
    deltas = disjoint_deltas(vit)
    files = [written(f"user{i}", delta, classes=(f"a{i}", f"b{i}")) for i, delta in enumerate(deltas)]
    expected = dict(vit.params)
    for delta in deltas:
        expected = merge(expected, delta)
    contents = set()
    for order in permutations(files):
        report = compose(*order)
        contents.add((tmp_path / "all.fewshot").read_bytes())
        assert [item["file"] for item in report["files"]] == [str(path) for path in order]
    assert len(contents) == 1
    found = merge(vit.params, read_delta_file(tmp_path / "all.fewshot").delta)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert report["weights"]["changed_by_several"] == 0 and report["weights"]["signs_agree"] is None
    assert report["weights"]["changed_by_one"] == sum(len(c.positions) for d in deltas for c in d.values())
    assert [item["survival"] for item in report["files"]] == pytest.approx([1] * 3)
    assert report["weights"]["disagreements"] == [] and report["shared_classes"] == []


def test_the_report_says_where_they_disagree(written, compose, vit):
    name, values = next((name, values) for name, values in vit.params.items() if values.ndim > 1)
    shape = tuple(values.shape)
    head = Head(torch.eye(2, vit.dim), torch.zeros(2), False)
    other = Head(torch.stack([torch.eye(1, vit.dim)[0], -torch.eye(2, vit.dim)[1]]), torch.zeros(2), False)
    one = written("one", {name: Sparse(shape, torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 3.0]))}, head=head)
    two = written(
        "two", {name: Sparse(shape, torch.tensor([1, 2, 5]), torch.tensor([2.0, -1.0, 1.0]))}, ("cat", "star"), other
    )
    report = compose(one, two)
    assert report["weights"] == {
        "changed_by_one": 2,
        "changed_by_several": 2,
        "signs_agree": 0.5,
        "cancelled": 0.25,
        "disagreements": [{"parameter": name, "changed_by_several": 2, "signs_agree": 0.5, "cancelled": 0.25}],
    }
    assert [item["class"] for item in report["shared_classes"]] == ["cat", "star"]
    assert [item["cosine"] for item in report["shared_classes"]] == pytest.approx([1, -1])
    assert report["files"][0]["survival"] == pytest.approx((1 + 2 * 4 + 3 * 2) / 14)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"rule": "ties"}, {"rule": "dare", "density": 0.5}, {"scale": 0.5}])
def test_what_users_learned_composes_to_a_classifier(how, tmp_path, learn, compose, predict, evaluate, source, unseen):
    """Two users with a class in common; afterwards one file that all commands take."""
    write_folder(tmp_path / "mine", ("cat", "star"), 4, seed=0, size=64)
    write_folder(tmp_path / "yours", ("house", "star"), 4, seed=1, size=64)
    mine, yours = tmp_path / "mine.fewshot", tmp_path / "yours.fewshot"
    learn(tmp_path / "mine", mine, "bitfit", QUICK)
    learn(tmp_path / "yours", yours, "shira", QUICK, seed=1)
    report = compose(mine, yours, **how)
    file = tmp_path / "all.fewshot"
    assert report["classes"] == ["cat", "house", "star"]
    assert [item["class"] for item in report["shared_classes"]] == ["star"]
    found = read_delta_file(file)
    digests = {read_delta_file(path).digest for path in (mine, yours)}
    assert set(found.header.provenance.parents) == digests
    assert found.header.provenance.images == 16 and len(found.header.provenance.learned_from) == 16
    assert verify(file, source, CPU).checks
    assert inspect(file).method == "compose"
    assert evaluate(file, unseen)["learned_from"] == 8  # `unseen` has the pictures that `yours` was learned from
    assert predict(file, unseen)["images"] == 15


@pytest.mark.slow
def test_dare_is_drawn_by_the_seed(written, compose, vit, tmp_path):
    files = [written(f"user{i}", delta, classes=(f"a{i}", f"b{i}")) for i, delta in enumerate(disjoint_deltas(vit))]
    outputs = []
    for order, seed in ((files, 0), (files[::-1], 0), (files, 1)):
        compose(*order, rule="dare", seed=seed)
        outputs.append((tmp_path / "all.fewshot").read_bytes())
    assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.slow
def test_different_bases_are_refused_by_name(drawn, tmp_path, learn, compose, weights):
    files = {name: tmp_path / f"{name}.fewshot" for name in ("vit", "conv", "small")}
    learn(drawn, files["vit"])
    learn(drawn, files["conv"], backbone="test_efficientnet")
    learn(drawn, files["small"], image_size=32)
    with pytest.raises(FewshotError, match=r"different bases: test_vit .* test_efficientnet"):
        compose(files["vit"], files["conv"])
    with pytest.raises(FewshotError, match="64 x 64 px and 32 x 32 px"):
        compose(files["vit"], files["small"])
    assert not (tmp_path / "all.fewshot").exists()


def test_what_does_not_go_together_is_refused(written, compose, vit, drawn, tmp_path, learn):
    one = written("one", {}, ("a", "b"))
    two = written("two", {}, ("c", "d"))
    cosine = written("cosine", {}, ("e", "f"), Head(torch.eye(2, vit.dim), torch.zeros(2), True))
    with pytest.raises(FewshotError, match="nothing to compose"):
        compose(one)
    with pytest.raises(FewshotError, match="same classifier"):
        compose(one, two, one)
    with pytest.raises(FewshotError, match=r"cosine.fewshot works on features of unit norm and that of .*one"):
        compose(one, cosine)
    with pytest.raises(FewshotError, match="one of the files"):
        compose(one, two, output=two)
    with pytest.raises(FewshotError, match="add keeps all"):
        compose(one, two, density=0.5)
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(FewshotError, match="density"):
            compose(one, two, rule="ties", density=wrong)
    with pytest.raises(FewshotError, match="not a delta file"):
        compose(one, sorted(drawn.glob("*/*"))[0])


def test_heads_alone_compose_and_dense_changes_too(written, compose, vit):
    report = compose(written("one", {}, ("a", "b")), written("two", {}, ("c", "d")))
    assert report["density"] == 0 and report["weights"]["changed_by_one"] == 0
    name = next(iter(vit.params))
    dense = {name: Dense(torch.ones_like(vit.params[name]).contiguous())}
    report = compose(written("three", dense, ("a", "b")), written("fourth", dense, ("c", "d")))
    assert report["weights"]["signs_agree"] == 1 and report["weights"]["cancelled"] == 0
    assert [item["survival"] for item in report["files"]] == pytest.approx([2, 2])


def test_a_change_that_the_backbone_does_not_have_is_refused_before_it_is_computed(written, compose, vit):
    name, values = next((name, values) for name, values in vit.params.items() if values.ndim > 1)
    fitting = written("one", {name: Dense(torch.ones_like(values))})
    for other, change in (
        (name, LowRank((400, 400), torch.ones(400, 1), torch.ones(1, 400))),
        ("no.such", Dense(torch.ones(3))),
    ):
        with pytest.raises(FewshotError, match="which test_vit does not have"):
            compose(fitting, written("two", {other: change}))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8", "1bit"])
def test_what_lies_in_few_bits_stays_in_few_bits_where_nothing_is_lost(kind, written, compose, vit, tmp_path):
    names = [name for name, values in vit.params.items() if values.ndim > 1][:2]
    rng = torch.Generator().manual_seed(0)
    changes = {
        name: Sparse(tuple(vit.params[name].shape), torch.arange(0, 40, 2), torch.randn(20, generator=rng))
        for name in names
    }
    one, two = (written(name[-9:], {name: changes[name]}, (name, "b" + name), values=kind) for name in names)
    report = compose(one, two)
    assert report["values"] == {"stored": kind, "head": "float32", "exact": True}
    composed = read_delta_file(tmp_path / "all.fewshot")
    for path, name in zip((one, two), names, strict=True):
        assert torch.equal(composed.delta[name].values, read_delta_file(path).delta[name].values)


@pytest.mark.slow
def test_values_asked_for_are_rounded_to_and_said_to_be(written, compose, vit, tmp_path):
    one, two = (written(f"user{i}", delta, (f"a{i}", f"b{i}")) for i, delta in enumerate(disjoint_deltas(vit, users=2)))
    exact, rounded = compose(one, two), compose(one, two, output=tmp_path / "small.fewshot", values="int8")
    assert exact["values"]["stored"] == "float32" and exact["values"]["exact"]
    assert rounded["values"]["stored"] == "int8" and not rounded["values"]["exact"]
    assert rounded["bytes"] < exact["bytes"] / 2
    assert read_delta_file(tmp_path / "small.fewshot").stored.values == "int8"


def test_sums_that_few_bits_would_change_are_kept_whole(written, compose, vit):
    name, values = next((name, values) for name, values in vit.params.items() if values.ndim > 1)
    at = torch.tensor([0, 3])
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([2.0**-12, 2.0])]
    files = [
        written(f"user{i}", {name: Sparse(tuple(values.shape), at, part)}, (f"a{i}", f"b{i}"), values="float16")
        for i, part in enumerate(parts)
    ]
    assert compose(*files)["values"]["stored"] == "float32"
