import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from fewshot_cli.engine.deltas import Change, Delta, Dense, LowRank, Sparse, merge
from fewshot_cli.engine.heads import Head
from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.errors import FewshotError
from fewshot_cli.files import delta_file, signed
from fewshot_cli.files.delta_file import (
    KIND,
    BaseFacts,
    Expected,
    Header,
    Provenance,
    read_delta_file,
    smallest,
    write_delta_file,
)

CLASSES = ("--x", "café", "[bold]", "قط")
SHAPES = {"dense": (3, 4), "sparse": (5, 4, 2), "low": (6, 4), "kernel": (4, 3, 2, 2), "bias": (7,), "scalar": ()}


def random_change(name: str) -> Change:
    rng = torch.Generator().manual_seed(len(name))
    shape = SHAPES[name]
    match name:
        case "sparse":
            return Sparse(shape, torch.tensor([0, 3, 39]), torch.randn(3, generator=rng))
        case "low" | "kernel":
            columns = torch.Size(shape[1:]).numel()
            left, right = torch.randn(shape[0], 1, generator=rng), torch.randn(1, columns, generator=rng)
            return LowRank(shape, left, right)
        case _:
            return Dense(torch.randn(shape, generator=rng))


DELTA = {name: random_change(name) for name in SHAPES}
BASE = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for name, shape in SHAPES.items()}
HEAD = Head(torch.linspace(-1, 1, 20).reshape(4, 5), torch.arange(4).float(), unit_norm=True)


def header(delta: Delta = DELTA, **changes: Any) -> Header:
    base = BaseFacts(
        backbone="test_vit",
        fingerprint="0" * 64,
        size=sum(values.numel() for values in BASE.values()),
        licence="apache-2.0",
        preprocessing=Preprocessing((64, 64), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
    )
    provenance = Provenance(
        seed=3,
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
        "recipe": {"method": {"name": "lora"}},
        "provenance": provenance,
    }
    return Header.model_validate(facts | changes)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.fewshot"
    write_delta_file(path, header(), DELTA, HEAD)
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


@pytest.mark.parametrize("names", [[], ["dense"], ["sparse"], ["low"], ["kernel"], ["scalar"], list(SHAPES)])
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


def sized(change: Change) -> int:
    """Bytes of the change alone, as the file that holds it differs from one whose tensors are empty."""
    tensors = delta_file._coded("x", change)
    return sum(values.numel() * values.element_size() for values in tensors.values())


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_smallest_form_is_smallest_and_changes_no_value(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), max_size=3)))
    size = torch.Size(shape).numel()
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    dense = torch.randn(shape, generator=rng) * (
        torch.rand(shape, generator=rng) < data.draw(st.sampled_from([0, 0.3, 1]))
    )
    form = data.draw(st.sampled_from(["dense", "sparse", "low"]))
    if form == "low":
        rows, rank = (shape[0] if shape else 1), data.draw(st.integers(1, 3))
        left, right = torch.randn(rows, rank, generator=rng), torch.randn(rank, size // rows, generator=rng)
        change: Change = LowRank(shape, left * data.draw(st.sampled_from([0.0, 1.0])), right)
    elif form == "sparse":
        change = Sparse(shape, torch.arange(size), dense.flatten())
    else:
        change = Dense(dense)
    chosen = smallest(change)
    base = torch.randn(shape, generator=rng)
    assert torch.equal(chosen.added_to(base), change.added_to(base))
    values = change.added_to(torch.zeros(shape))
    positions = values.flatten().nonzero().squeeze(1)
    other_forms = [change, Dense(values), Sparse(shape, positions, values.flatten()[positions])]
    assert sized(chosen) == min(map(sized, other_forms))


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(good, path):
    content = good.read_bytes()
    lengths = {*range(40), *range(40, len(content), 61), *range(len(content) - 20, len(content))}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        refusal(path)


def test_a_file_with_more_at_its_end_is_refused(good, path):
    path.write_bytes(good.read_bytes() + b"\0")
    refusal(path)


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


def test_signing_again_without_a_change_is_accepted(good, path):
    """So that what follows fails for what was changed, not for how it was signed."""
    assert read_delta_file(tampered(good, path)).header == read_delta_file(good).header


@pytest.mark.parametrize("metadata", [{"format": None}, {"format": "peft"}])
def test_another_format_is_refused(good, path, metadata):
    assert "not a delta file" in refusal(tampered(good, path, **metadata))


def test_a_file_of_before_there_were_banks_is_read(good, path):
    assert read_delta_file(good).header.provenance.bank is None
    older = tampered(good, path, header=lambda h: h["provenance"].pop("bank"))
    assert read_delta_file(older).header == read_delta_file(good).header


def test_the_bank_it_came_from_is_a_digest(good, path):
    made = tampered(good, path, header=lambda h: h["provenance"].update(bank="ab" * 32))
    assert read_delta_file(made).header.provenance.bank == "ab" * 32
    assert "bank" in refusal(tampered(good, path, header=lambda h: h["provenance"].update(bank="mine.bank")))


@pytest.mark.parametrize("version", ["2", "0", "", "one", None])
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


INNER: dict[str, tuple[str, Callable[[Tensors], Mapping[str, Tensor | None]]]] = {
    "falling positions": ("rising", lambda t: {"positions/sparse": t["positions/sparse"].flip(0)}),
    "a position twice": ("rising", lambda t: {"positions/sparse": torch.tensor([0, 3, 3]).int()}),
    "a negative position": ("rising", lambda t: {"positions/sparse": torch.tensor([-1, 3, 4]).int()}),
    "a position beyond the end": ("rising", lambda t: {"positions/sparse": torch.tensor([0, 3, 40]).int()}),
    "positions as int64": ("missing", lambda t: {"positions/sparse": t["positions/sparse"].long()}),
    "positions as a matrix": ("missing", lambda t: {"positions/sparse": t["positions/sparse"][:, None]}),
    "no positions": ("missing", lambda t: {"positions/sparse": None}),
    "no values": ("values/sparse", lambda t: {"values/sparse": None}),
    "fewer values": ("values/sparse", lambda t: {"values/sparse": t["values/sparse"][1:]}),
    "a value that is NaN": ("not a number", lambda t: {"values/sparse": t["values/sparse"] / 0}),
    "a dense value that is NaN": ("not a number", lambda t: {"dense/dense": t["dense/dense"] * float("nan")}),
    "a factor that is infinite": ("not a number", lambda t: {"left/low": t["left/low"] * float("inf")}),
    "a head that is NaN": ("not a number", lambda t: {"head.bias": t["head.bias"] * float("nan")}),
    "no dense change": ("missing", lambda t: {"dense/dense": None}),
    "a dense change of another shape": ("shape", lambda t: {"dense/dense": t["dense/dense"].T.contiguous()}),
    "a dense change in half precision": ("float32", lambda t: {"dense/dense": t["dense/dense"].half()}),
    "a left factor without a right one": ("right/low", lambda t: {"right/low": None}),
    "a left factor that is a number": ("left/low", lambda t: {"left/low": torch.ones(())}),
    "a left factor with more rows": ("left/low", lambda t: {"left/low": torch.ones(7, 1)}),
    "factors of different rank": ("right/low", lambda t: {"right/low": torch.ones(2, 4)}),
    "an extra tensor": ("belongs to nothing", lambda t: {"extra": torch.ones(2)}),
    "a parameter in two forms": ("belongs to nothing", lambda t: {"dense/sparse": torch.ones(5, 4, 2)}),
    "no head": ("head.weight", lambda t: {"head.weight": None}),
    "a head that is a number": ("head.weight", lambda t: {"head.weight": torch.ones(())}),
    "a head for fewer classes": ("head.weight", lambda t: {"head.weight": t["head.weight"][1:]}),
    "a head without bias": ("head.bias", lambda t: {"head.bias": None}),
    "a bias for fewer classes": ("head.bias", lambda t: {"head.bias": t["head.bias"][1:]}),
}


@pytest.mark.parametrize(("about", "edit"), INNER.values(), ids=INNER)
def test_tensors_that_do_not_fit_are_refused_by_name(good, path, about, edit):
    assert about in refusal(tampered(good, path, tensors=edit))


def test_a_shape_of_another_size_is_refused(good, path):
    assert "dense" in refusal(tampered(good, path, header=lambda h: h["shapes"].update(dense=[3, 5])))
    assert "rising" in refusal(tampered(good, path, header=lambda h: h["shapes"].update(sparse=[2, 2])))
    refusal(tampered(good, path, header=lambda h: h["shapes"].update(low=[10**30, 10**30])))
    refusal(tampered(good, path, header=lambda h: h["shapes"].update(low=[])))


def test_a_parameter_that_only_the_header_or_only_the_tensors_have_is_refused(good, path):
    assert "more" in refusal(tampered(good, path, header=lambda h: h["shapes"].update(more=[2])))
    assert "belongs to nothing" in refusal(tampered(good, path, header=lambda h: h["shapes"].pop("dense")))


def test_two_classes_of_one_name_are_refused(good, path):
    assert "same name" in refusal(tampered(good, path, header=lambda h: h.update(classes=["a", "b", "c", "a"])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_a_head_of_another_number_type_is_refused(good, path, dtype):
    assert "head.weight" in refusal(tampered(good, path, tensors=lambda t: {"head.weight": t["head.weight"].to(dtype)}))
