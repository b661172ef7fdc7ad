import importlib.util
import json
import math
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.delta.change import Change, Delta, Dense, LowRank, Sparse, all_values, merge
from fewshot_cli.engine.delta.masks import random_positions
from fewshot_cli.engine.head.linear import Head, cosine_head
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats import container as signed
from fewshot_cli.formats.coding.integer_codec import signed_code
from fewshot_cli.formats.coding.position_codec import code_of
from fewshot_cli.formats.delta.file import (
    HEAD_VALUES,
    KIND,
    BaseFacts,
    DeltaFile,
    Expected,
    Header,
    Provenance,
    as_stored,
    delta_bytes,
    head_as_stored,
    head_bytes,
    read_any_delta_file,
    read_delta_file,
    values_of,
    write_delta_file,
)
from fewshot_cli.formats.delta.header import GraftFacts
from fewshot_cli.formats.delta.rounding import BITS, Values
from fewshot_cli.formats.delta.sections import KeptGraft, KeptHead, KeptSupport
from fewshot_cli.formats.kinds import metadata_of
from fewshot_cli.jobs.classify.prediction.rows import label_set

CLASSES = ("--x", "café", "[bold]", "قط")
SHAPES = {
    "dense": (3, 4),
    "sparse": (5, 4, 2),
    "low": (6, 4),
    "kernel": (4, 3, 2, 2),
    "bias": (7,),
    "scalar": (),
    "drawn": (9, 60),
    "thin": (1500,),
}
SEED = 3
KINDS: tuple[Values, ...] = get_args(Values)
DOCS = Path(__file__).parents[3] / "docs"
VERSION_1 = Path(__file__).parent / "data" / "version-1.fewshot"
CORPUS = Path(__file__).parent / "corpus"


def random_change(name: str) -> Change:
    rng = torch.Generator().manual_seed(len(name))
    shape = SHAPES[name]
    match name:
        case "sparse":
            return Sparse(shape, torch.tensor([0, 3, 39]), torch.randn(3, generator=rng))
        case "drawn":
            return Sparse(shape, random_positions(SEED, name, 540, 200), torch.randn(200, generator=rng))
        case "thin":
            return Sparse(shape, torch.arange(3, 1500, 150), torch.randn(10, generator=rng))
        case "low" | "kernel":
            columns = torch.Size(shape[1:]).numel()
            left, right = torch.randn(shape[0], 1, generator=rng), torch.randn(1, columns, generator=rng)
            return LowRank(shape, left, right)
        case _:
            return Dense(torch.randn(shape, generator=rng))


DELTA = {name: random_change(name) for name in SHAPES}
BASE = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for name, shape in SHAPES.items()}
FORMS = {
    "dense": "dense",
    "sparse": "sparse",
    "low": "low rank",
    "kernel": "low rank",
    "bias": "dense",
    "scalar": "dense",
    "drawn": "drawn",
    "thin": "sparse",
}
HEAD = Head(torch.linspace(-1, 1, 20).reshape(4, 5), torch.arange(4).float(), unit_norm=True)


def header(delta: Delta = DELTA, **changes: Any) -> Header:
    base = BaseFacts(
        backbone="test_vit",
        fingerprint="0" * 64,
        size=max(
            sum(math.prod(shape) for shape in shapes) for shapes in (SHAPES.values(), [c.shape for c in delta.values()])
        ),
        licence="apache-2.0",
        preprocessing=Preprocessing((64, 64), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
    )
    provenance = Provenance(
        seed=SEED,
        images=9,
        data="ab" * 32,
        learned_from=("abc", "def"),
        expected_accuracy=Expected(mean=None, low=None, high=None, how="one image per class"),
        versions={"torch": "2"},
    )
    facts = {
        "base": base,
        "classes": CLASSES,
        "unit_norm": True,
        "shapes": {name: change.shape for name, change in delta.items()},
        "touched": {name: f"{i:064x}" for i, name in enumerate(delta, 1)},
        "recipe": {"method": {"name": "lora"}},
        "provenance": provenance,
    }
    return Header.model_validate(facts | changes)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.fewshot"
    write_delta_file(path, header(), DELTA, HEAD)
    assert read_delta_file(path).stored.forms == FORMS
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "x.fewshot"


def refusal(path: Path) -> str:
    """The one sentence that reading the file gives; anything but a FewshotError fails the test."""
    with pytest.raises(FewshotError) as caught:
        read_delta_file(path)
    assert str(path) in caught.value.problem and caught.value.hint
    assert "\n" not in caught.value.problem
    return caught.value.problem


# --- what is written is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [[], *([name] for name in SHAPES), list(SHAPES)])
@pytest.mark.parametrize("unit_norm", [True, False])
def test_a_delta_comes_back_exactly(path, names, unit_norm):
    delta = {name: DELTA[name] for name in names}
    head = Head(HEAD.weight, HEAD.bias, unit_norm)
    count = write_delta_file(path, header(delta, unit_norm=unit_norm), delta, head)
    found = read_delta_file(path)
    assert count == path.stat().st_size
    assert found.header == header(delta, unit_norm=unit_norm)
    assert found.head.unit_norm == unit_norm
    assert torch.equal(found.head.weight, head.weight) and torch.equal(found.head.bias, head.bias)
    base = {name: BASE[name] for name in names}
    moved, expected = merge(base, found.delta), merge(base, delta)
    assert moved.keys() == expected.keys()
    assert all(torch.equal(moved[name], expected[name]) for name in names)
    assert [change.shape for change in found.delta.values()] == [change.shape for change in delta.values()]


def test_the_same_content_gives_the_same_bytes(path, good):
    again = {name: DELTA[name] for name in reversed(DELTA)}
    in_order = {name: again[name] for name in DELTA}
    write_delta_file(path, header(), in_order, HEAD)
    assert path.read_bytes() == good.read_bytes()


def test_another_content_has_another_digest(path, good):
    seen = {read_delta_file(good).digest}
    for changed in (
        {"delta": DELTA, "head": Head(HEAD.weight, HEAD.bias + 1, True), "header": header()},
        {"delta": DELTA | {"bias": Dense(torch.ones(7))}, "head": HEAD, "header": header()},
        {"delta": DELTA, "head": HEAD, "header": header(classes=("a", "b", "c", "d"))},
    ):
        write_delta_file(path, **changed)
        seen.add(read_delta_file(path).digest)
    assert len(seen) == 4


def with_values(path: Path, values: Values, head: str = "int8", delta: Delta = DELTA) -> DeltaFile:
    """What is read back of a file that keeps numbers so."""
    write_delta_file(path, header(delta), delta, HEAD, values, head)
    return read_delta_file(path)


def same(one: Change, other: Change) -> bool:
    return type(one) is type(other) and torch.equal(all_values(one), all_values(other))


@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("head", HEAD_VALUES)
def test_what_is_read_back_is_what_was_promised(path, values, head):
    found = with_values(path, values, head)
    promised = as_stored(DELTA, values, SEED)
    assert list(found.delta) == list(promised) and found.stored.values == values and found.stored.head == head
    assert all(same(found.delta[name], promised[name]) for name in promised)
    assert torch.equal(found.head.weight, head_as_stored(HEAD, head).weight)
    assert found.header == header() and list(found.header.touched) == list(SHAPES)


@pytest.mark.parametrize("values", KINDS)
def test_written_again_it_is_the_same(path, values):
    found = with_values(path, values)
    before = path.read_bytes()
    write_delta_file(path, found.header, found.delta, found.head, values, "int8")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("values", "most"), [("float32", 0), ("bfloat16", 2**-8), ("float16", 2**-11), ("int8", 0.5 / 127 * 1.01)]
)
def test_rounding_is_no_more_than_it_says(values, most):
    """Of each value, for int8 of the largest."""
    for name, change in as_stored({n: DELTA[n] for n in ("dense", "sparse", "drawn", "thin")}, values, SEED).items():
        exact, found = all_values(DELTA[name]), all_values(change)
        scale = exact.abs().max() if values == "int8" else exact.abs()
        assert bool(((found - exact).abs() <= most * scale).all())


def test_a_single_bit_is_the_sign_of_the_mean_size():
    change = as_stored({"thin": DELTA["thin"]}, "1bit", SEED)["thin"]
    exact = DELTA["thin"].values
    assert torch.equal(change.values.sign(), exact.sign()) and len(change.values.abs().unique()) == 1
    assert float(change.values[0].abs()) == pytest.approx(float(exact.abs().mean()), rel=2**-8)


def test_a_bit_never_adds_where_nothing_is_added(path):
    """Zeros have no sign: a change with some is sparse, drawn or not."""
    holed = torch.tensor([1.0, 0.0, -1.0, 2.0])
    drawn = Sparse((9, 60), DELTA["drawn"].positions, DELTA["drawn"].values * (torch.arange(200) % 7 > 0))
    delta = {"dense": Dense(holed), "drawn": drawn}
    found = with_values(path, "1bit", delta=delta)
    assert set(found.stored.forms.values()) == {"sparse"}
    assert all(torch.equal(all_values(found.delta[n]) == 0, all_values(delta[n]) == 0) for n in delta)


def test_factors_are_never_single_bits(path):
    rng = torch.Generator().manual_seed(0)
    low = LowRank((60, 80), torch.randn(60, 2, generator=rng), torch.randn(2, 80, generator=rng))
    found = with_values(path, "1bit", delta={"low": low, "dense": DELTA["dense"]})
    assert values_of(found, "low") == "int8" and values_of(found, "dense") == "1bit"
    assert (all_values(found.delta["low"]) - all_values(low)).abs().max() < 0.1


def test_what_float16_can_not_hold_is_refused(path):
    for large in (Dense(torch.full((3,), 1e5)), LowRank((2, 2), torch.full((2, 1), 1e5), torch.ones(1, 2))):
        with pytest.raises(FewshotError, match="more than float16 holds"):
            with_values(path, "float16", delta={"dense": large})
        with_values(path, "bfloat16", delta={"dense": large})


def test_factors_of_a_product_that_float16_can_not_hold_stay_factors(path):
    low = LowRank((2, 2), torch.full((2, 1), 1e3), torch.full((1, 2), 1e3))
    assert with_values(path, "float16", delta={"low": low}).stored.forms == {"low": "low rank"}


@pytest.mark.slow
@given(st.data())
@settings(max_examples=120, deadline=None)
def test_any_delta_comes_back_as_promised_and_as_the_reference_reads_it(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "x.fewshot"
    delta = {}
    for name in data.draw(st.lists(st.sampled_from(["a", "b.weight", "ü"]), max_size=3, unique=True)):
        delta[name] = data.draw(changes(name))
    values = data.draw(st.sampled_from(KINDS))
    head = data.draw(st.sampled_from(HEAD_VALUES))
    write_delta_file(path, header(delta), delta, HEAD, values, head)
    found, promised = read_delta_file(path), as_stored(delta, values, SEED)
    assert all(same(found.delta[name], promised[name]) for name in delta) and list(found.delta) == list(delta)
    if values == "float32":
        assert all(torch.equal(all_values(found.delta[name]), all_values(delta[name])) for name in delta)
    check_reference(path, found)
    again = path.with_name("again")
    write_delta_file(again, found.header, found.delta, found.head, values, head)
    assert again.read_bytes() == path.read_bytes()


@st.composite
def changes(draw, name: str) -> Change:
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=3)))
    size = math.prod(shape)
    rng = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    form = draw(st.sampled_from(["dense", "sparse", "drawn", "low"]))
    some = torch.rand(size, generator=rng) < draw(st.sampled_from([0, 0.1, 0.6, 1]))
    numbers = torch.randn(size, generator=rng) * draw(st.sampled_from([1e-30, 1e-4, 1.0, 100.0]))
    if form == "low":
        rows, rank = (shape[0] if shape else 1), draw(st.integers(0, 3))
        left, right = torch.randn(rows, rank, generator=rng), torch.randn(rank, size // rows, generator=rng)
        return LowRank(shape, left * draw(st.sampled_from([0.0, 1.0])), right)
    if form == "dense":
        return Dense((numbers * some).reshape(shape))
    if form == "drawn":
        positions = random_positions(SEED, name, size, draw(st.integers(0, size)))
        return Sparse(shape, positions, numbers[positions])
    return Sparse(shape, some.nonzero().squeeze(1), numbers[some])


def reference_reader() -> Callable[[Path], tuple[Any, ...]]:
    """`read_delta` of the documentation."""
    return reference().read_delta


def reference() -> ModuleType:
    """The documentation's module."""
    spec = importlib.util.spec_from_file_location("read_delta", DOCS / "read_delta.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_reference(path: Path, found: DeltaFile) -> None:
    """The file is what a reader of the specification makes of it, in NumPy alone."""
    delta, weight, bias, read, _ = reference_reader()(path)
    assert set(delta) == set(found.delta) and read["classes"] == list(found.header.classes)
    assert np.array_equal(weight, found.head.weight.numpy()) and np.array_equal(bias, found.head.bias.numpy())
    for name, change in found.delta.items():
        expected = all_values(change).numpy()
        assert delta[name].shape == expected.shape
        if isinstance(change, LowRank):
            np.testing.assert_allclose(delta[name], expected, rtol=1e-5, atol=1e-6)
        else:
            assert np.array_equal(delta[name], expected)


@pytest.mark.parametrize("values", KINDS)
def test_the_reference_reader_reads_every_form(path, values):
    check_reference(path, with_values(path, values))


@pytest.mark.parametrize("is_transductive", [False, True])
def test_the_reference_reader_reads_the_sections_of_version_3(path, is_transductive):
    delta = {"a": Sparse((2, 3), torch.tensor([1, 4]), torch.tensor([0.5, -2.0]))}
    features, labels = torch.randn(6, HEAD.dim).half().float(), torch.tensor([0, 1] * 3)
    head = KeptHead({"name": "tim"}, 2.0) if is_transductive else HEAD
    graft = KeptGraft(GraftFacts(kind={"name": "feature map"}, sites=("",)), {"map": torch.eye(HEAD.dim)})
    told = header(delta).model_copy(update={"unit_norm": False})
    write_delta_file(path, told, delta, head, "float16", "float32", graft, KeptSupport(features, labels))
    found, weight, bias, read, sections = reference_reader()(path)
    assert np.array_equal(found["a"], all_values(delta["a"]).numpy()) and metadata_of(path)["version"] == "3"
    assert sections.keys() == {"graft/map", "support.features", "support.labels"}
    assert np.array_equal(sections["graft/map"], np.eye(HEAD.dim))
    assert np.array_equal(sections["support.features"], features.numpy())
    assert np.array_equal(sections["support.labels"], labels.numpy())
    if is_transductive:
        assert weight is None and bias is None and read["transductive"] == {"settings": {"name": "tim"}, "factor": 2.0}
    else:
        assert np.array_equal(weight, HEAD.weight.numpy()) and read["transductive"] is None


def test_the_reference_reader_reads_the_thresholds_of_version_4(path):
    rng = torch.Generator().manual_seed(0)
    wanted = header({}).model_copy(update={"unit_norm": False})
    head = Head(torch.randn(HEAD.weight.shape, generator=rng), torch.zeros(len(HEAD.weight)), unit_norm=False)
    thresholds = tuple((0.2 + 0.6 * torch.rand(len(HEAD.weight), generator=rng)).tolist())
    write_delta_file(path, wanted, {}, head, "float16", "float32", thresholds=thresholds)
    delta, weight, bias, read, sections = reference_reader()(path)
    assert metadata_of(path)["version"] == "4" and not delta and not sections
    assert tuple(read["thresholds"]) == thresholds == read_any_delta_file(path).thresholds
    features = torch.randn(200, HEAD.dim, generator=rng)
    logits = features.numpy() @ weight.T + bias
    found = [tuple(reference().labels_of(row, read)) for row in logits]
    probabilities = head.logits(features).sigmoid()
    assert found == [label_set(read["classes"], row, thresholds)[0] for row in probabilities]
    assert {len(labels) for labels in found} >= {0, 1, 2}
    one = {name: value for name, value in read.items() if name != "thresholds"}
    assert reference().labels_of(logits[0], one) == [read["classes"][int(logits[0].argmax())]]


def test_the_reference_reader_is_short():
    lines = (DOCS / "read_delta.py").read_text().splitlines()
    assert sum(bool(line.strip()) and '"""' not in line for line in lines) <= 70


# --- how many bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("density", [0.001, 0.01, 0.3])
def test_the_form_takes_what_the_formula_says(path, values, density):
    rng = torch.Generator().manual_seed(0)
    positions = (torch.rand(100_000, generator=rng) < density).nonzero().squeeze(1)
    delta = {"a": Sparse((100, 1000), positions, torch.rand(len(positions), generator=rng) + 1)}
    found = with_values(path, values, delta=delta)
    tensors = load(path.read_bytes())
    taken = sum(t.numel() * t.element_size() for n, t in tensors.items() if n.startswith(("positions", "values")))
    assert found.stored.forms == {"a": "sparse"}
    assert taken == pytest.approx(delta_bytes(delta, values), rel=0.05, abs=40)


@pytest.mark.parametrize("head", HEAD_VALUES)
def test_a_head_takes_what_the_formula_says(path, head):
    with_values(path, "float32", head, {})
    taken = sum(values.numel() * values.element_size() for values in load(path.read_bytes()).values())
    assert taken == head_bytes(HEAD, head)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_form_that_could_be_taken_is_smaller(data):
    change = data.draw(changes("a"))
    values = data.draw(st.sampled_from(KINDS))
    size, not_zero = math.prod(change.shape), change.nonzeros()
    forms = [BITS[values] * size] if values != "1bit" or not_zero == size else [math.inf]
    if isinstance(change, LowRank):
        forms.append(BITS["int8" if values == "1bit" else values] * (change.left.numel() + change.right.numel()))
    assert 8 * (delta_bytes({"a": change}, values) - 1) <= min(forms)
    assert not_zero or delta_bytes({"a": change}, values) == 0


def test_parameters_of_unlike_density_have_sets_of_their_own(path):
    """One code for both would take more."""
    rng = torch.Generator().manual_seed(0)
    masks = {"few": torch.rand(400_000, generator=rng) < 0.001, "many": torch.rand(40_000, generator=rng) < 0.2}
    delta = {n: Sparse(tuple(m.shape), m.nonzero().squeeze(1), torch.ones(int(m.sum()))) for n, m in masks.items()}
    with_values(path, "float16", delta=delta)
    codes = [values for name, values in load(path.read_bytes()).items() if name.startswith("positions/")]
    together = code_of(np.flatnonzero(np.concatenate([masks["few"], masks["many"]])), 440_000)
    assert len(codes) == 2 and sum(map(len, codes)) < 0.9 * len(together)


def test_parameters_alike_have_one_set(path):
    rng = torch.Generator().manual_seed(0)
    masks = {f"p{i}": torch.rand(20_000, generator=rng) < 0.01 for i in range(20)}
    delta = {n: Sparse(tuple(m.shape), m.nonzero().squeeze(1), torch.ones(int(m.sum()))) for n, m in masks.items()}
    with_values(path, "float16", delta=delta)
    assert [name for name in load(path.read_bytes()) if name.startswith("positions/")] == ["positions/0"]


@pytest.mark.parametrize("dim", [384, 768, 1280, 2048])
def test_prototypes_of_ten_classes_fit_in_20_kb(path, dim):
    """Of many small features and few large ones, as pooled ones are: such take as much as the worst of LOG.md's."""
    head = cosine_head(torch.empty(10, dim).exponential_(generator=torch.Generator().manual_seed(0)))
    provenance = header().provenance.model_copy(update={"learned_from": tuple(f"{i:012x}" for i in range(100))})
    facts = header({}, classes=tuple(f"a class named {i}" for i in range(10)), provenance=provenance)
    assert write_delta_file(path, facts, {}, head, "float16", "8bit") <= 20_000


CODED = [kind for kind in HEAD_VALUES if kind.endswith("bit")]


@pytest.mark.parametrize("kind", CODED)
@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_coded_head_is_within_half_a_step_and_stays_as_it_is(kind, data):
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    size = data.draw(st.sampled_from([0.0, 1e-35, 1e-3, 1.0, 3e38]))
    weight = size * (torch.rand(3, 7, generator=rng) * 2 - 1) ** data.draw(st.sampled_from([1, 9]))
    head = Head(weight, torch.zeros(3), unit_norm=False)
    found = head_as_stored(head, kind)
    most = weight.abs().max() / (2 ** (int(kind[:-3]) - 1) - 0.5) / 2 if size != 1e-35 else weight.abs().max()
    assert torch.isfinite(found.weight).all() and bool(((found.weight - weight).abs() <= most).all())
    assert torch.equal(head_as_stored(found, kind).weight, found.weight)


@pytest.mark.parametrize("kind", CODED)
def test_the_bits_of_a_coded_head_are_read_back(path, kind):
    """Also of one with numbers that take many bytes each."""
    head = Head(torch.tensor([[1.0, -0.999, 1e-6], [0.5, 0.0, -1.0], [1, 1, 1], [0, 0, 0]]), HEAD.bias, True)
    write_delta_file(path, header({}), {}, head, "float16", kind)
    found = read_delta_file(path)
    assert found.stored.head == kind and torch.equal(found.head.weight, head_as_stored(head, kind).weight)
    check_reference(path, found)


# --- version 1 -------------------------------------------------------------------------------------------------------


def test_version_1_is_still_read():
    """The file was written by the last version that wrote them."""
    found = read_delta_file(VERSION_1)
    names = ["dense", "sparse", "low", "kernel", "bias", "scalar"]
    assert list(found.delta) == names and found.stored.version == 1 and found.header.touched == {}
    assert found.stored.forms == {name: FORMS[name] for name in names}
    for name in names:
        torch.testing.assert_close(all_values(found.delta[name]), all_values(DELTA[name]), rtol=1e-6, atol=1e-6)
    assert torch.equal(found.head.weight, HEAD.weight) and found.header.classes == CLASSES
    assert found.digest[:12] == "0dbfa6218bed"


def test_version_1_is_written_again_as_version_2(path):
    old = read_delta_file(VERSION_1)
    write_delta_file(path, old.header, old.delta, old.head)
    new = read_delta_file(path)
    assert new.stored.version == 2 and new.header == old.header
    assert all(torch.equal(all_values(new.delta[name]), all_values(old.delta[name])) for name in old.delta)


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_cut_anywhere_is_refused(good, path):
    content = good.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refusal(path)


def test_a_file_with_more_at_its_end_is_refused(good, path):
    path.write_bytes(good.read_bytes() + b"\0")
    refusal(path)


@pytest.mark.slow
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_any_byte_changed_is_refused_or_the_same(good, path, place, flip):
    content = bytearray(good.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    try:
        found = read_delta_file(path)
    except FewshotError:
        return
    # A byte that says nothing, as a space after the header, or an escape's spelling, may change.
    assert found.digest == read_delta_file(good).digest and found.header == read_delta_file(good).header


@pytest.mark.slow
def test_a_file_with_any_byte_changed_by_a_bit_is_refused_or_the_same(path):
    digest = with_values(path, "int8").digest
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        try:
            found = read_delta_file(path)
        except FewshotError:
            continue
        assert found.digest == digest


@pytest.mark.slow
@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(path, content):
    path.write_bytes(content)
    refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "There is no delta file" in refusal(tmp_path / "none.fewshot")
    assert "There is no delta file" in refusal(tmp_path)


def test_a_huge_declared_size_is_refused(path):
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    refusal(path)
    text = json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    refusal(path)


# --- tampered files, signed with the right hash ----------------------------------------------------------------------

Tensors = dict[str, Tensor]


def tampered(
    good: Path,
    path: Path,
    tensors: Callable[[Tensors], Mapping[str, Tensor | None]] = lambda tensors: {},
    header: Callable[[dict[str, Any]], object] = lambda header: None,
    text: Callable[[str], str] = str,
    **metadata: str | None,
) -> Path:
    """`good` with tensors replaced (None: without), the header edited in place, its text and the metadata too."""
    with safe_open(good, framework="pt") as file:
        facts = file.metadata()
    held = load(good.read_bytes())
    held = {name: values for name, values in (held | tensors(held)).items() if values is not None}
    fields = json.loads(facts["header"])
    header(fields)
    written = text(json.dumps(fields))
    facts |= {"header": written, "sha256": signed._digest(written, held)} | metadata
    path.write_bytes(save(held, {key: value for key, value in facts.items() if value is not None}))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A file of int8 values and head."""
    path = tmp_path_factory.mktemp("small") / "small.fewshot"
    with_values(path, "int8")
    return path


def test_signing_again_without_a_change_is_accepted(good, path):
    """So that what follows fails for what was changed, not for how it was signed."""
    assert read_delta_file(tampered(good, path)).header == read_delta_file(good).header


@pytest.mark.parametrize("metadata", [{"format": None}, {"format": "peft"}])
def test_another_format_is_refused(good, path, metadata):
    assert "not a delta file" in refusal(tampered(good, path, **metadata))


@pytest.mark.parametrize("field", ["bank", "parents"])
def test_a_file_of_before_there_were_banks_and_parents_is_read(good, path, field):
    older = tampered(good, path, header=lambda h: h["provenance"].pop(field))
    assert read_delta_file(older).header == read_delta_file(good).header


def test_the_bank_it_came_from_is_a_digest(good, path):
    made = tampered(good, path, header=lambda h: h["provenance"].update(bank="ab" * 32))
    assert read_delta_file(made).header.provenance.bank == "ab" * 32
    assert "bank" in refusal(tampered(good, path, header=lambda h: h["provenance"].update(bank="mine.bank")))


@pytest.mark.parametrize("version", ["3", "0", "", "one", None])
def test_another_version_is_refused(good, path, version):
    assert "version" in refusal(tampered(good, path, version=version))


@pytest.mark.parametrize("digest", [None, "", "0" * 64])
def test_a_wrong_hash_is_refused(good, path, digest):
    assert "hash" in refusal(tampered(good, path, sha256=digest))


def test_a_safetensors_file_without_metadata_is_refused(path):
    path.write_bytes(save({"x": torch.ones(2)}))
    assert "not a delta file" in refusal(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", "[" * 5000, '"\ud800"'.encode(errors="ignore").decode()])
def test_a_header_that_is_no_header_is_refused(good, path, text):
    assert "header" in refusal(tampered(good, path, text=lambda _: text))


def test_a_missing_header_is_refused(good, path):
    held = load(good.read_bytes())
    facts = {"format": KIND.format, "version": str(KIND.version), "sha256": signed._digest("", held)}
    path.write_bytes(save(held, facts))
    assert "header" in refusal(path)


HEADER_EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an extra field": lambda h: h.update(surprise=1),
    "no base": lambda h: h.pop("base"),
    "no classes": lambda h: h.pop("classes"),
    "no provenance": lambda h: h.pop("provenance"),
    "one class": lambda h: h.update(classes=["a"]),
    "classes that are numbers": lambda h: h.update(classes=[1, 2, 3, 4]),
    "a fingerprint that is none": lambda h: h["base"].update(fingerprint="xyz"),
    "a base of no size": lambda h: h["base"].update(size=0),
    "an extra fact of the base": lambda h: h["base"].update(surprise=1),
    "pictures of no size": lambda h: h["base"]["preprocessing"].update(size=[0, 64]),
    "pictures of negative size": lambda h: h["base"]["preprocessing"].update(size=[-64, -64]),
    "pictures of vast size": lambda h: h["base"]["preprocessing"].update(size=[10**9, 10**9]),
    "one side": lambda h: h["base"]["preprocessing"].update(size=[64]),
    "an unknown crop": lambda h: h["base"]["preprocessing"].update(crop_mode="tear"),
    "no crop": lambda h: h["base"]["preprocessing"].update(crop_fraction=0),
    "a std of zero": lambda h: h["base"]["preprocessing"].update(std=[0.2, 0.0, 0.2]),
    "unit norm maybe": lambda h: h.update(unit_norm="maybe"),
    "hashes that should be a tensor": lambda h: h.update(touched={"elsewhere": "0" * 64}),
    "an unknown form": lambda h: h["forms"].__setitem__(0, "thick"),
    "a form that is a list of nothing": lambda h: h["forms"].__setitem__(0, []),
    "a negative set": lambda h: h["forms"].__setitem__(1, -1),
    "a negative rank": lambda h: h["forms"].__setitem__(2, ["low rank", -1]),
    "a vast rank": lambda h: h["forms"].__setitem__(2, ["low rank", 10**40]),
    "a draw of a negative number": lambda h: h["forms"].__setitem__(6, ["drawn", 3, -200]),
    "a draw from a vast seed": lambda h: h["forms"].__setitem__(6, ["drawn", 2**64, 200]),
    "no forms": lambda h: h.pop("forms"),
    "unknown values": lambda h: h.update(values="float8"),
    "a vast shape": lambda h: h["shapes"].update(low=[10**30, 10**30]),
    "more changed than there is": lambda h: h["shapes"].update(low=[60, 4000]),
    "a base of vast size": lambda h: h["base"].update(size=2**32 + 1),
    "a shape of many lengths": lambda h: h["shapes"].update(scalar=[1] * 9),
    "parents that are no digests": lambda h: h["provenance"].update(parents=["x"]),
    "a shape that is text": lambda h: h["shapes"].update(dense="3x4"),
    "a shape with a zero": lambda h: h["shapes"].update(low=[0, 4]),
    "a negative shape": lambda h: h["shapes"].update(sparse=[-5, -4, 2]),
    "a recipe that is text": lambda h: h.update(recipe="lora"),
    "provenance that is text": lambda h: h.update(provenance="here"),
    "an expectation that is a list": lambda h: h["provenance"].update(expected_accuracy=[1]),
    "versions that are numbers": lambda h: h["provenance"].update(versions=3),
}


@pytest.mark.parametrize("edit", HEADER_EDITS.values(), ids=HEADER_EDITS)
def test_a_wrong_header_is_refused_with_the_place(good, path, edit):
    assert "header is wrong at" in refusal(tampered(good, path, header=edit))


@pytest.mark.parametrize("recipe", [{}, {"method": "lora"}, {"method": {"name": 3}}, {"method": {"name": ["x"]}}])
def test_a_recipe_from_another_time_has_no_method_here(good, path, recipe):
    assert read_delta_file(tampered(good, path, header=lambda h: h.update(recipe=recipe))).header.method is None


def code(positions: Any, size: int) -> Tensor:
    return torch.frombuffer(bytearray(code_of(np.array(positions, dtype=np.int64), size)), dtype=torch.uint8)


INNER: dict[str, tuple[str, Callable[[Tensors], Mapping[str, Tensor | None]]]] = {
    "a position beyond the end": ("beyond", lambda t: {"positions/0": code([*range(12), 1540], 10**6)}),
    "positions of another number": ("values", lambda t: {"positions/0": code([0, 3, 39], 1540)}),
    "more positions than values": ("no set", lambda t: {"positions/0": code(range(900), 1540)}),
    "positions as numbers": ("not bytes", lambda t: {"positions/0": t["positions/0"].int()}),
    "positions as a matrix": ("not bytes", lambda t: {"positions/0": t["positions/0"][None]}),
    "positions that are no code": ("no set", lambda t: {"positions/0": torch.zeros(40, dtype=torch.uint8)}),
    "no positions": ("positions/0 is missing", lambda t: {"positions/0": None}),
    "no values": ("values is missing", lambda t: {"values": None}),
    "fewer values": ("values", lambda t: {"values": t["values"][1:]}),
    "more values": ("values", lambda t: {"values": torch.cat([t["values"], t["values"]])}),
    "values as a matrix": ("values", lambda t: {"values": t["values"][None]}),
    "values of another kind": ("values", lambda t: {"values": t["values"].half()}),
    "a value that is NaN": ("not a number", lambda t: {"values": t["values"] * float("nan")}),
    "a factor that is infinite": ("not a number", lambda t: {"factors": t["factors"] * float("inf")}),
    "factors whose product is infinite": ("not finite", lambda t: {"factors": torch.full_like(t["factors"], 1e20)}),
    "no factors": ("factors is missing", lambda t: {"factors": None}),
    "fewer factors": ("values", lambda t: {"factors": t["factors"][2:]}),
    "scales where there are none": ("belongs to nothing", lambda t: {"scales": torch.ones(10).bfloat16()}),
    "a second set": ("belongs to nothing", lambda t: {"positions/1": t["positions/0"].clone()}),
    "an extra tensor": ("belongs to nothing", lambda t: {"extra": torch.ones(2)}),
    "hashes of fewer": ("hashes", lambda t: {"touched": t["touched"][1:]}),
    "hashes as text": ("hashes", lambda t: {"touched": t["touched"].int()}),
    "no head": ("head.weight", lambda t: {"head.weight": None}),
    "a head that is a number": ("head.weight", lambda t: {"head.weight": torch.ones(())}),
    "a head for fewer classes": ("head.weight", lambda t: {"head.weight": t["head.weight"][1:]}),
    "a head that is NaN": ("head.weight", lambda t: {"head.weight": t["head.weight"] * float("nan")}),
    "a head without bias": ("head.bias", lambda t: {"head.bias": None}),
    "a bias that is NaN": ("head.bias", lambda t: {"head.bias": t["head.bias"] * float("nan")}),
    "a bias for fewer classes": ("head.bias", lambda t: {"head.bias": t["head.bias"][1:]}),
    "a head with scales it has no use for": ("head.scales", lambda t: {"head.scales": torch.ones(4).bfloat16()}),
}


@pytest.mark.parametrize(("about", "edit"), INNER.values(), ids=INNER)
def test_tensors_that_do_not_fit_are_refused_by_name(good, path, about, edit):
    assert about in refusal(tampered(good, path, tensors=edit))


INNER_SMALL: dict[str, tuple[str, Callable[[Tensors], Mapping[str, Tensor | None]]]] = {
    "no scales": ("scales is missing", lambda t: {"scales": None}),
    "fewer scales": ("scales", lambda t: {"scales": t["scales"][1:]}),
    "scales of more digits": ("scales", lambda t: {"scales": t["scales"].float()}),
    "a scale that is NaN": ("scales", lambda t: {"scales": t["scales"] * float("nan")}),
    "a negative scale": ("scales", lambda t: {"scales": -t["scales"]}),
    "an infinite scale": ("scales", lambda t: {"scales": t["scales"] * float("inf")}),
    "a vast scale": ("not a number", lambda t: {"scales": torch.full_like(t["scales"], 3e38)}),
    "a value of -128": ("-128", lambda t: {"values": torch.full_like(t["values"], -128)}),
    "a head without scales": ("head.scales is missing", lambda t: {"head.scales": None}),
    "a head with a scale for fewer": ("head.scales", lambda t: {"head.scales": t["head.scales"][1:]}),
    "a head of a vast scale": ("head.weight", lambda t: {"head.scales": torch.full_like(t["head.scales"], 3e38)}),
}


def code_of_head(numbers: Any) -> Tensor:
    return torch.frombuffer(bytearray(signed_code(np.array(numbers, dtype=np.int64))), dtype=torch.uint8)


def raw_head(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(squeezed(content)), dtype=torch.uint8)


INNER_CODED: dict[str, tuple[str, Callable[[Tensors], Mapping[str, Tensor | None]]]] = {
    "a code that is cut": ("inflate", lambda t: {"head.weight": t["head.weight"][:-1]}),
    "a code with more at its end": ("inflate", lambda t: {"head.weight": torch.cat([t["head.weight"]] * 2)}),
    "a code of nothing": ("0 numbers", lambda t: {"head.weight": code_of_head([])}),
    "numbers that are no rows": ("rows", lambda t: {"head.weight": code_of_head([1] * 19)}),
    "a number that does not end": ("hold", lambda t: {"head.weight": raw_head(bytes([1] * 20 + [255]))}),
    "a number of many bits": ("can't have", lambda t: {"head.weight": code_of_head([2**12] * 20)}),
    "a bomb": ("inflate", lambda t: {"head.weight": raw_head(bytes(10**7))}),
    "a bomb of escapes": ("inflate", lambda t: {"head.weight": raw_head(b"\xff" * 10**7 + b"\0")}),
    "a code as a matrix": ("matrix", lambda t: {"head.weight": t["head.weight"][None]}),
    "a code as int8": ("matrix", lambda t: {"head.weight": t["head.weight"].view(torch.int8)}),
    "no scales": ("head.scales is missing", lambda t: {"head.scales": None}),
    "a scale for fewer": ("head.scales", lambda t: {"head.scales": t["head.scales"][1:]}),
    "a negative scale": ("can't have", lambda t: {"head.scales": -t["head.scales"]}),
    "a scale that is NaN": ("can't have", lambda t: {"head.scales": t["head.scales"] * float("nan")}),
    "a vast scale": ("can't have", lambda t: {"head.scales": torch.full_like(t["head.scales"], 3e38)}),
}


@pytest.mark.parametrize(("about", "edit"), INNER_CODED.values(), ids=INNER_CODED)
def test_a_coded_head_that_does_not_fit_is_refused_by_name(path, about, edit):
    coded = path.with_name("coded")
    with_values(coded, "float16", "9bit")
    assert "head.weight" in refusal(tampered(coded, path, tensors=edit))
    assert about in refusal(path)


@pytest.mark.parametrize(("about", "edit"), INNER_SMALL.values(), ids=INNER_SMALL)
def test_scales_that_do_not_fit_are_refused_by_name(small, path, about, edit):
    read_delta_file(tampered(small, path))
    assert about in refusal(tampered(small, path, tensors=edit))


def test_bits_after_the_last_value_are_refused(path, tmp_path):
    with_values(tmp_path / "bits", "1bit", delta={"bias": Dense(torch.ones(7))})
    assert int(load((tmp_path / "bits").read_bytes())["values"][0]) == 0b1111_1110
    assert "bits" in refusal(
        tampered(tmp_path / "bits", path, lambda t: {"values": torch.tensor([0b1111_1111]).byte()})
    )


def test_forms_that_do_not_fit_are_refused(good, path):
    for forms in ([], ["dense"] * 7, ["dense"] * 9):
        assert "forms" in refusal(tampered(good, path, header=lambda h, forms=forms: h.update(forms=forms)))
    for place, form in ((0, 7), (0, 0), (2, ["low rank", 2]), (2, ["low rank", 2**32]), (6, ["drawn", 3, 201])):
        refusal(tampered(good, path, header=lambda h, i=place, form=form: h["forms"].__setitem__(i, form)))
    assert "only" in refusal(tampered(good, path, header=lambda h: h["forms"].__setitem__(6, ["drawn", 3, 10**9])))


def test_a_parameter_that_only_the_header_or_only_the_tensors_have_is_refused(good, path):
    refusal(tampered(good, path, header=lambda h: h["shapes"].update(more=[2])))
    refusal(tampered(good, path, header=lambda h: h["shapes"].pop("dense")))


def test_two_classes_of_one_name_are_refused(good, path):
    assert "same name" in refusal(tampered(good, path, header=lambda h: h.update(classes=["a", "b", "c", "a"])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int16, torch.bool, torch.float8_e4m3fn])
def test_a_head_of_another_number_type_is_refused(good, path, dtype):
    assert "head.weight" in refusal(tampered(good, path, tensors=lambda t: {"head.weight": t["head.weight"].to(dtype)}))


# --- version 1, tampered ---------------------------------------------------------------------------------------------

INNER_1: dict[str, tuple[str, Callable[[Tensors], Mapping[str, Tensor | None]]]] = {
    "falling positions": ("rising", lambda t: {"positions/sparse": t["positions/sparse"].flip(0)}),
    "a position twice": ("rising", lambda t: {"positions/sparse": torch.tensor([0, 3, 3]).int()}),
    "a negative position": ("rising", lambda t: {"positions/sparse": torch.tensor([-1, 3, 4]).int()}),
    "a position beyond the end": ("rising", lambda t: {"positions/sparse": torch.tensor([0, 3, 40]).int()}),
    "positions as int64": ("missing", lambda t: {"positions/sparse": t["positions/sparse"].long()}),
    "no positions": ("missing", lambda t: {"positions/sparse": None}),
    "fewer values": ("values/sparse", lambda t: {"values/sparse": t["values/sparse"][1:]}),
    "a value that is NaN": ("not a number", lambda t: {"values/sparse": t["values/sparse"] / 0}),
    "a dense change of another shape": ("shape", lambda t: {"dense/dense": t["dense/dense"].T.contiguous()}),
    "a dense change in half precision": ("float32", lambda t: {"dense/dense": t["dense/dense"].half()}),
    "a left factor without a right one": ("right/low", lambda t: {"right/low": None}),
    "a left factor that is a number": ("left/low", lambda t: {"left/low": torch.ones(())}),
    "factors whose product is infinite": ("not finite", lambda t: {"left/low": torch.full((6, 1), 1e38)}),
    "factors of different rank": ("right/low", lambda t: {"right/low": torch.ones(2, 4)}),
    "a parameter in two forms": ("belongs to nothing", lambda t: {"dense/sparse": torch.ones(5, 4, 2)}),
    "a head in half precision": ("head.weight", lambda t: {"head.weight": t["head.weight"].half()}),
}


@pytest.mark.parametrize(("about", "edit"), INNER_1.values(), ids=INNER_1)
def test_tensors_of_version_1_that_do_not_fit_are_refused_by_name(path, about, edit):
    assert read_delta_file(tampered(VERSION_1, path)).stored.version == 1
    assert about in refusal(tampered(VERSION_1, path, tensors=edit))


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_header_under_the_wrong_version_is_refused(good, path, version):
    refusal(tampered(good if version == "1" else VERSION_1, path, version=version))


# --- malicious files -------------------------------------------------------------------------------------------------


def resigned(path: Path, edit: Callable[[dict[str, Any]], object], text: Callable[[str], str] = str) -> Path:
    """The file with its list of tensors edited, and then the text of that; tensors and hash stay."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    listed = json.loads(content[8:start])
    edit(listed)
    written = text(json.dumps(listed)).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[start:])
    return path


def raw_code(form: int, low_bits: int, count: int, body: bytes) -> Tensor:
    """A code with the right checksum."""
    rest = struct.pack("<BBQ", form, low_bits, count) + body
    return torch.frombuffer(bytearray(struct.pack("<I", zlib.crc32(rest)) + rest), dtype=torch.uint8)


def squeezed(content: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflater.compress(content) + deflater.flush()


def positions(code: Tensor) -> Callable[[Path, Path], Path]:
    return lambda good, path: tampered(good, path, tensors=lambda t: {"positions/0": code})


def vast(h: dict[str, Any]) -> None:
    h["base"]["size"] = 2**32
    h["shapes"]["thin"] = [2**31]


MALICIOUS: dict[str, Callable[[Path, Path], Path]] = {
    "gaps that are negative when added up": positions(raw_code(0, 40, 13, bytes(40 * 2) + squeezed(b"\xff" * 13))),
    "a position beyond": positions(raw_code(0, 0, 13, squeezed(bytes(12) + b"\xff" * 6 + b"\x20"))),
    "a gigantic count": positions(raw_code(0, 0, 2**64 - 1, squeezed(b""))),
    "a bomb": positions(raw_code(0, 0, 13, squeezed(bytes(10**8)))),
    "a bomb of escapes": positions(raw_code(0, 0, 13, squeezed(b"\xff" * 10**8))),
    "a bitmap that is a bomb": positions(raw_code(2, 0, 13, squeezed(bytes(10**8)))),
    "a complement of nearly all": positions(raw_code(1, 0, 1500, squeezed(bytes(40)))),
    "a bitmap of a vast parameter": lambda good, path: tampered(
        good, path, lambda t: {"positions/0": raw_code(2, 0, 13, squeezed(bytes(10**6)))}, vast
    ),
    "gaps of a vast parameter": lambda good, path: tampered(
        good, path, lambda t: {"positions/0": raw_code(0, 0, 13, squeezed(b"\xff" * 10**7))}, vast
    ),
    "a vast drawn parameter": lambda good, path: tampered(
        good, path, header=lambda h: (vast(h), h["forms"].__setitem__(7, ["drawn", 1, 2**31]))
    ),
    "a vast dense parameter": lambda good, path: tampered(
        good, path, header=lambda h: (vast(h), h["forms"].__setitem__(7, "dense"))
    ),
    "factors of a vast parameter": lambda good, path: tampered(
        good, path, header=lambda h: (vast(h), h["forms"].__setitem__(7, ["low rank", 2**20]))
    ),
    "overlapping tensors": lambda good, path: resigned(
        tampered(good, path), lambda listed: listed["head.bias"].update(data_offsets=[0, 16])
    ),
    "a tensor beyond the file": lambda good, path: resigned(
        tampered(good, path), lambda listed: listed["head.bias"].update(data_offsets=[0, 2**62], shape=[2**60])
    ),
    "negative offsets": lambda good, path: resigned(
        tampered(good, path), lambda listed: listed["head.bias"].update(data_offsets=[-16, 0])
    ),
    "offsets that are text": lambda good, path: resigned(
        tampered(good, path), lambda listed: listed["head.bias"].update(data_offsets="ab")
    ),
    "an infinite offset": lambda good, path: resigned(
        tampered(good, path),
        lambda listed: None,
        lambda text: text.replace('"data_offsets": [0, ', '"data_offsets": [0, 1e999, '),
    ),
    "a tensor twice": lambda good, path: resigned(
        tampered(good, path), lambda listed: None, lambda text: text.replace('{"', '{"head.bias": {}, "', 1)
    ),
    "metadata twice": lambda good, path: resigned(
        tampered(good, path), lambda listed: None, lambda text: text.replace('"format":', '"format": "x", "format":', 1)
    ),
    "a key of the header twice": lambda good, path: tampered(
        good, path, text=lambda text: text.replace('"classes":', '"classes": ["a", "b"], "classes":', 1)
    ),
    "a key of an inner part twice": lambda good, path: tampered(
        good, path, text=lambda text: text.replace('"seed":', '"seed": 1, "seed":', 1)
    ),
    "a header with NaN": lambda good, path: tampered(good, path, text=lambda text: text.replace("0.9", "NaN", 1)),
    "a list that is no JSON": lambda good, path: resigned(tampered(good, path), lambda _: None, lambda text: text[:-1]),
    "a list that is a list": lambda good, path: resigned(tampered(good, path), lambda _: None, lambda text: "[]"),
    "a list nested deeply": lambda good, path: resigned(
        tampered(good, path), lambda _: None, lambda text: '{"a":' * 10**5
    ),
    "a number of many digits": lambda good, path: resigned(
        tampered(good, path), lambda _: None, lambda text: '{"a": ' + "9" * 10**5 + "}"
    ),
    "metadata that are numbers": lambda good, path: resigned(
        tampered(good, path), lambda listed: listed["__metadata__"].update(header=3)
    ),
    "metadata that are a list": lambda good, path: resigned(
        tampered(good, path), lambda listed: listed.update(__metadata__=[])
    ),
    "a header that is a pickle": lambda good, path: tampered(good, path, text=lambda _: "cos\nsystem\n(S'exit 1'\ntR."),
}


@pytest.mark.parametrize("make", MALICIOUS.values(), ids=MALICIOUS)
def test_a_malicious_file_is_refused_in_a_sentence_and_little_memory(good, path, make):
    make(good, path)
    refusal(path)
    tracemalloc.start()
    try:
        start = time.process_time()
        refusal(path)
        assert time.process_time() - start < 2
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_a_file_longer_than_it_says_is_not_read(good, path):
    """Of a terabyte that its list of tensors doesn't speak of."""
    path.write_bytes(good.read_bytes())
    with path.open("r+b") as file:
        file.truncate(2**40)
    assert "size" in refusal(path)


CORPUS_FILES = sorted(CORPUS.glob("*.fewshot"))


@pytest.mark.parametrize("kept", CORPUS_FILES, ids=lambda path: path.stem)
def test_the_corpus_is_read_or_refused_as_its_names_say(kept):
    if kept.stem.startswith("bad"):
        refusal(kept)
    else:
        found = read_delta_file(kept)
        if found.stored.version == 2:
            check_reference(kept, found)


def test_there_is_a_corpus():
    assert {path.stem.split("-")[0] for path in CORPUS_FILES} == {"bad", "good"} and len(CORPUS_FILES) > 20
