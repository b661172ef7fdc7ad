import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats import bank as bank_file
from fewshot_cli.formats import container as signed
from fewshot_cli.formats.bank import BankHeader, BankProvenance, read_bank, read_bank_header, write_bank
from fewshot_cli.formats.coding.position_codec import code_of
from fewshot_cli.formats.delta.file import BaseFacts, Expected, Header, Provenance, read_delta_file, write_delta_file

SHAPES = {"z.weight": (30, 40), "a.bias": (40,), "scale": ()}
SIZE = 1241
EXPERTS = 3
BASE = BaseFacts(
    backbone="test_vit",
    fingerprint="0" * 64,
    size=2000,
    licence="apache-2.0",
    preprocessing=Preprocessing((64, 64), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
)
PROVENANCE = BankProvenance(
    seed=3,
    episodes=1000,
    data={"omniglot": "ab" * 32, "café": "cd" * 32},
    validation={"omniglot": 0.875},
    versions={"torch": "2"},
    parent="e" * 64,
)
TENSORS = {
    "router.keys": torch.linspace(-1, 1, 12).reshape(3, 4),
    "router.fine": torch.linspace(0, 1, 5, dtype=torch.float64),
    "tasks": torch.tensor(2**40),
    "none": torch.empty(0, 3),
}


def header(**changes: Any) -> BankHeader:
    facts = {
        "base": BASE,
        "kind": "experts",
        "shapes": SHAPES,
        "experts": EXPERTS,
        "recipe": {"method": {"name": "smat"}},
        "router": {"heads": 4, "temperature": 0.5},
        "provenance": PROVENANCE,
    }
    return BankHeader.model_validate(facts | changes)


def random_delta(size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def random_gates(density: float = 0.1, between: float = 0.2, experts: int = EXPERTS, size: int = SIZE) -> Tensor:
    """Open with probability `density`, and then between 0 and 1 with probability `between`."""
    rng = torch.Generator().manual_seed(1)
    is_open, is_between = torch.rand(2, experts, size, generator=rng) < torch.tensor([density, between])[:, None, None]
    return is_open * torch.where(is_between, torch.rand(experts, size, generator=rng), 1.0)


DELTA, GATES = random_delta(), random_gates()
DENSE = header(kind="dense", experts=0)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.bank"
    write_bank(path, header(), DELTA, GATES, TENSORS)
    return path


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    """A dense bank that is mostly zeros, so that it is stored sparsely."""
    path = tmp_path_factory.mktemp("dense") / "dense.bank"
    write_bank(path, DENSE, DELTA * (DELTA > 1.5), None, TENSORS)
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "x.bank"


def refusal(path: Path) -> str:
    """The one sentence that reading the file gives; anything but a FewshotError fails the test."""
    with pytest.raises(FewshotError) as caught:
        read_bank(path)
    assert str(path) in caught.value.problem and caught.value.hint
    assert "\n" not in caught.value.problem
    return caught.value.problem


def stored(path: Path) -> set[str]:
    return set(load(path.read_bytes()))


# --- what is written is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["float32", "float16"])
@pytest.mark.parametrize("density", [0, 0.001, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("between", [0, 0.1, 1])
def test_experts_come_back_exactly_or_rounded_to_float16(path, density, between, values):
    gates = random_gates(density, between)
    count = write_bank(path, header(), DELTA, gates, TENSORS, values)
    found = read_bank(path)
    assert count == path.stat().st_size
    assert found.header == header() and list(found.header.shapes) == list(SHAPES)
    delta, kept = (DELTA, gates) if values == "float32" else (DELTA.half().float(), gates.half().float())
    assert found.gates is not None and torch.equal(found.gates, kept)
    assert torch.equal(found.delta, torch.where((kept > 0).any(0), delta, 0))
    assert found.delta.dtype == found.gates.dtype == torch.float32
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype and torch.equal(found.tensors[name], tensor)


@pytest.mark.parametrize("values", ["float32", "float16"])
@pytest.mark.parametrize("density", [0, 0.01, 0.5, 0.999, 1])
def test_a_dense_bank_comes_back_exactly_in_the_smaller_form(path, density, values):
    delta = DELTA * (torch.rand(SIZE, generator=torch.Generator().manual_seed(2)) < density)
    count = write_bank(path, DENSE, delta, None, {}, values)
    found = read_bank(path)
    assert found.gates is None and found.header == DENSE
    assert torch.equal(found.delta, delta if values == "float32" else delta.half().float())
    assert ("delta/positions" in stored(path)) == (density < 0.999)
    assert count < SIZE * (4 if values == "float32" else 2) + 2000


@pytest.mark.slow
@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_gates_come_back_exactly(path, data):
    experts, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 30))
    gate = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 2.0**-149, 1 - 2.0**-24]), st.floats(0, 1, width=32))
    rows = data.draw(st.lists(st.lists(gate, min_size=size, max_size=size), min_size=experts, max_size=experts))
    gates, delta = torch.tensor(rows, dtype=torch.float32), random_delta(size)
    write_bank(path, header(experts=experts, shapes={"w": (size,)}), delta, gates, {})
    found = read_bank(path)
    assert found.gates is not None and torch.equal(found.gates, gates)
    assert torch.equal(found.delta, delta * (gates > 0).any(0))


def test_where_every_gate_is_closed_the_delta_makes_no_difference(good):
    """So that it need not be stored."""
    found, mixture = read_bank(good), torch.tensor([0.2, 0.5, 0.3])
    assert found.gates is not None
    assert not torch.equal(found.delta, DELTA)
    assert torch.equal((mixture @ found.gates) * found.delta, (mixture @ GATES) * DELTA)


def test_gates_that_half_precision_holds_take_two_bytes(path):
    for gates, dtype in ((GATES, torch.float32), (GATES.half().float(), torch.float16)):
        write_bank(path, header(), DELTA, gates, {})
        assert load(path.read_bytes())["gates/0/values"].dtype == dtype


def test_tensors_may_share_memory_and_be_trained(path):
    weights = torch.arange(12.0).reshape(3, 4).requires_grad_()
    write_bank(path, header(), DELTA.clone().requires_grad_(), GATES, {"rows": weights, "columns": weights.T})
    assert torch.equal(read_bank(path).tensors["columns"], weights.T)


def test_the_same_content_gives_the_same_bytes(path, good):
    again = {name: TENSORS[name] for name in reversed(TENSORS)}
    write_bank(path, header(), DELTA.clone(), GATES.clone(), dict(reversed(again.items())))
    assert path.read_bytes() == good.read_bytes()


def test_another_content_has_another_digest(path, good):
    seen = {read_bank(good).digest}
    for facts, delta, gates, tensors in (
        (header(recipe={}), DELTA, GATES, TENSORS),
        (header(), DELTA + 1, GATES, TENSORS),
        (header(), DELTA, GATES.flip(0), TENSORS),
        (header(), DELTA, GATES, {}),
    ):
        write_bank(path, facts, delta, gates, tensors)
        seen.add(read_bank(path).digest)
    assert len(seen) == 5


def test_gates_next_to_an_end_are_rounded_to_it(path):
    gates = torch.zeros(2, header().size)
    gates[0, :4] = torch.tensor([1e-9, 1 - 1e-6, 0.5, 1.0])
    facts = header(experts=2)
    write_bank(path, facts, DELTA, gates, {}, "float16")
    found = read_bank(path).gates
    assert found is not None
    assert found[0, :4].tolist() == [0.0, 1.0, 0.5, 1.0]
    write_bank(path, facts, DELTA, gates, {})
    assert torch.equal(read_bank(path).gates, gates)


def test_independent_masks_take_little_more_than_their_entropy_and_values(path):
    size, experts, density = 200_000, 8, 0.1
    gates = random_gates(density, 0, experts, size)
    base = BASE.model_copy(update={"size": size})
    facts = header(base=base, experts=experts, shapes={"w": (size,)})
    count = write_bank(path, facts, random_delta(size), gates, {}, "float16")
    entropy = -(density * np.log2(density) + (1 - density) * np.log2(1 - density))
    values = 2 * int((gates > 0).any(0).sum())
    assert count < 1.02 * experts * size * entropy / 8 + values + 3000


# --- what can't be written -------------------------------------------------------------------------------------------


def test_a_delta_that_half_precision_can_not_hold_is_refused(path):
    large = DELTA.clone()
    large[5] = 7e4
    open_there = GATES.clone()
    open_there[0, 5] = 1
    for facts, gates in ((header(), open_there), (DENSE, None)):
        with pytest.raises(FewshotError, match="float16"):
            write_bank(path, facts, large, gates, {}, "float16")
        write_bank(path, facts, large, gates, {})
        assert read_bank(path).delta[5] == 7e4
    assert refusal(path.parent / "none.bank")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_diverged_is_not_written(path, value):
    with pytest.raises(FewshotError, match="diverged"):
        write_bank(path, header(), DELTA.index_fill(0, torch.tensor(5), value), GATES, {})
    with pytest.raises(FewshotError, match="diverged"):
        write_bank(path, header(), DELTA, GATES, {"router": torch.tensor(value)})
    with pytest.raises(FewshotError, match="outside"):
        write_bank(path, header(), DELTA, GATES.index_fill(1, torch.tensor(5), value), {})
    assert not path.exists()


@pytest.mark.parametrize("value", [-1e-3, 1.001])
def test_a_gate_outside_the_unit_interval_is_not_written(path, value):
    with pytest.raises(FewshotError, match="Expert 0 has a gate"):
        write_bank(path, header(), DELTA, GATES.index_fill(1, torch.tensor(5), value), {})


def test_tensors_that_do_not_fit_the_header_are_not_written(path):
    for facts, delta, gates, tensors in (
        (header(), DELTA[1:], GATES, {}),
        (header(), DELTA, GATES[1:], {}),
        (header(), DELTA, GATES[:, 1:], {}),
        (header(), DELTA, None, {}),
        (DENSE, DELTA, GATES, {}),
        (header(), DELTA.double(), GATES, {}),
        (header(), DELTA, GATES.double(), {}),
        (header(), DELTA, GATES, {"x": torch.ones(2).half()}),
    ):
        with pytest.raises(ValueError):
            write_bank(path, facts, delta, gates, tensors)
    assert not path.exists()


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
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_any_byte_changed_is_refused_or_the_same(good, path, place, flip):
    content = bytearray(good.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    try:
        found = read_bank(path)
    except FewshotError:
        return
    # A byte that says nothing, as a space after the header, or an escape's spelling, may change.
    assert found.digest == read_bank(good).digest and found.header == read_bank(good).header


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(path, content):
    path.write_bytes(content)
    refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "There is no bank" in refusal(tmp_path / "none.bank")
    assert "There is no bank" in refusal(tmp_path)


def test_a_delta_file_is_not_a_bank_nor_a_bank_a_delta_file(good, path):
    expected = Expected(mean=None, low=None, high=None, how="")
    provenance = Provenance(seed=0, images=2, data="", learned_from=(), expected_accuracy=expected, versions={})
    facts = Header(base=BASE, classes=("a", "b"), unit_norm=True, shapes={}, recipe={}, provenance=provenance)
    write_delta_file(path, facts, {}, Head(torch.ones(2, 3), torch.ones(2), True))
    assert "is a classifier (a delta file), but not a bank" in refusal(path)
    with pytest.raises(FewshotError, match="a bank of meta-tuning, but not a delta file"):
        read_delta_file(good)


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


def code(positions: list[int] | Tensor, size: int) -> Tensor:
    return torch.frombuffer(bytearray(code_of(np.array(positions, dtype=np.int64), size)), dtype=torch.uint8)


def test_signing_again_without_a_change_is_accepted(good, dense, path):
    """So that what follows fails for what was changed, not for how it was signed."""
    assert read_bank(tampered(good, path)).header == read_bank(good).header
    assert read_bank(tampered(dense, path)).header == read_bank(dense).header


@pytest.mark.parametrize("metadata", [{"format": None}, {"format": "peft"}])
def test_another_format_is_refused(good, path, metadata):
    assert "not a bank" in refusal(tampered(good, path, **metadata))


@pytest.mark.parametrize("version", ["2", "3", "0", "", "one", None])
def test_another_version_is_refused(good, path, version):
    assert "version" in refusal(tampered(good, path, version=version))


@pytest.mark.parametrize("digest", [None, "", "0" * 64])
def test_a_wrong_hash_is_refused(good, path, digest):
    assert "hash" in refusal(tampered(good, path, sha256=digest))


def test_a_safetensors_file_without_metadata_is_refused(path):
    path.write_bytes(save({"x": torch.ones(2)}))
    assert "not a bank" in refusal(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", "[" * 5000])
def test_a_header_that_is_no_header_is_refused(good, path, text):
    assert "header is wrong at" in refusal(tampered(good, path, text=lambda _: text))


HEADER_EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an extra field": lambda h: h.update(surprise=1),
    "no base": lambda h: h.pop("base"),
    "no provenance": lambda h: h.pop("provenance"),
    "no settings of the router": lambda h: h.pop("router"),
    "an unknown kind": lambda h: h.update(kind="pruned"),
    "dense with experts": lambda h: h.update(kind="dense"),
    "no experts": lambda h: h.update(experts=0),
    "fewer than no experts": lambda h: h.update(experts=-1),
    "a vast number of experts": lambda h: h.update(experts=10**30),
    "experts that take too much memory": lambda h: (
        h["base"].update(size=2**31),
        h["shapes"].update(more=[2**23]),
        h.update(experts=1000),
    ),
    "no parameters": lambda h: h.update(shapes={}),
    "more values than the base": lambda h: h["shapes"].update(more=[760]),
    "a shape with a zero": lambda h: h["shapes"].update(more=[0, 4]),
    "a negative shape": lambda h: h["shapes"].update(more=[-5, -4]),
    "a vast shape": lambda h: h["shapes"].update(more=[10**30, 10**30]),
    "a fingerprint that is none": lambda h: h["base"].update(fingerprint="xyz"),
    "a recipe that is text": lambda h: h.update(recipe="smat"),
    "fewer than no episodes": lambda h: h["provenance"].update(episodes=-1),
    "a parent that is none": lambda h: h["provenance"].update(parent="me"),
    "an accuracy that is not a number": lambda h: h["provenance"]["validation"].update(omniglot=float("nan")),
}


@pytest.mark.parametrize("edit", HEADER_EDITS.values(), ids=HEADER_EDITS)
def test_a_wrong_header_is_refused_with_the_place(good, path, edit):
    assert "header is wrong at" in refusal(tampered(good, path, header=edit))


def test_a_header_of_a_bank_of_another_size_is_refused(good, dense, path):
    assert "gates/3/open" in refusal(tampered(good, path, header=lambda h: h.update(experts=4)))
    assert "delta/values" in refusal(tampered(good, path, header=lambda h: h.update(experts=2)))
    for bank in (good, dense):
        refusal(tampered(bank, path, header=lambda h: h["shapes"].pop("z.weight")))
    assert "belongs to nothing" in refusal(
        tampered(dense, path, lambda t: {"gates/0/open": t["delta/positions"].clone()})
    )


def bomb(size: int) -> Tensor:
    """A code of half the places that would inflate to far more bytes."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = struct.pack("<BBQ", 0, 0, size // 2) + deflater.compress(bytes(10**7)) + deflater.flush()
    return torch.frombuffer(bytearray(struct.pack("<I", zlib.crc32(rest)) + rest), dtype=torch.uint8)


INNER: dict[str, tuple[str, Callable[[Tensors], Mapping[str, Tensor | None]]]] = {
    "no code": ("gates/1/open is missing", lambda t: {"gates/1/open": None}),
    "a code that is cut off": ("gates/1/open", lambda t: {"gates/1/open": t["gates/1/open"][:-1].clone()}),
    "an empty code": ("gates/1/open", lambda t: {"gates/1/open": t["gates/1/open"][:0].clone()}),
    "a code as numbers": ("not bytes", lambda t: {"gates/1/open": t["gates/1/open"].long()}),
    "a code as a matrix": ("not bytes", lambda t: {"gates/1/open": t["gates/1/open"][None]}),
    "a code that is a number": ("not bytes", lambda t: {"gates/1/open": torch.tensor(3, dtype=torch.uint8)}),
    "a code for more places": ("gates/1/open", lambda t: {"gates/1/open": code([SIZE], SIZE + 1)}),
    "a code that inflates without end": ("gates/1/open", lambda t: {"gates/1/open": bomb(SIZE)}),
    "an expert with fewer open gates": ("gates/1", lambda t: {"gates/1/open": code([3], SIZE)}),
    "no gates between": ("gates/1/between", lambda t: {"gates/1/between": None}),
    "fewer gates between": ("gates/1/values", lambda t: {"gates/1/between": code([0], SIZE)}),
    "gates between that are not open": ("gates/1/between", lambda t: {"gates/1/between": code([SIZE - 1], SIZE)}),
    "no values of gates": ("gates/1/values", lambda t: {"gates/1/values": None}),
    "fewer values of gates": ("gates/1/values", lambda t: {"gates/1/values": t["gates/1/values"][1:]}),
    "a gate of 0": ("between 0 and 1", lambda t: {"gates/1/values": t["gates/1/values"] * 0}),
    "a gate of 1": ("between 0 and 1", lambda t: {"gates/1/values": torch.ones_like(t["gates/1/values"])}),
    "a gate above 1": ("between 0 and 1", lambda t: {"gates/1/values": t["gates/1/values"] + 1}),
    "a negative gate": ("between 0 and 1", lambda t: {"gates/1/values": -t["gates/1/values"]}),
    "a gate that is NaN": ("not a number", lambda t: {"gates/1/values": t["gates/1/values"] * float("nan")}),
    "gates as float64": ("gates/1/values", lambda t: {"gates/1/values": t["gates/1/values"].double()}),
    "no delta": ("delta/values", lambda t: {"delta/values": None}),
    "a shorter delta": ("delta/values", lambda t: {"delta/values": t["delta/values"][1:]}),
    "a delta that is a matrix": ("delta/values", lambda t: {"delta/values": t["delta/values"][None]}),
    "a delta that is NaN": ("not a number", lambda t: {"delta/values": t["delta/values"] * float("nan")}),
    "a delta that is infinite": ("not a number", lambda t: {"delta/values": t["delta/values"] / 0}),
    "a delta as bfloat16": ("delta/values", lambda t: {"delta/values": t["delta/values"].bfloat16()}),
    "an extra expert": ("belongs to nothing", lambda t: {"gates/3/open": t["gates/0/open"].clone()}),
    "positions of the delta": ("belongs to nothing", lambda t: {"delta/positions": t["gates/0/open"].clone()}),
    "an extra tensor": ("belongs to nothing", lambda t: {"extra": torch.ones(2)}),
    "a router that is NaN": ("not a number", lambda t: {"tensors/router.keys": torch.tensor(float("nan"))}),
    "a router in half precision": ("tensors/router.keys", lambda t: {"tensors/router.keys": torch.ones(2).half()}),
}


@pytest.mark.parametrize(("about", "edit"), INNER.values(), ids=INNER)
def test_tensors_that_do_not_fit_are_refused_by_name(good, path, about, edit):
    assert about in refusal(tampered(good, path, tensors=edit))


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: {"delta/positions": None},
        lambda t: {"delta/positions": t["delta/positions"][1:].clone()},
        lambda t: {"delta/positions": code([1], SIZE)},
        lambda t: {"delta/positions": bomb(SIZE)},
        lambda t: {"delta/values": None},
        lambda t: {"delta/values": t["delta/values"] / 0},
    ],
)
def test_a_dense_bank_whose_tensors_do_not_fit_is_refused(dense, path, edit):
    assert "delta/" in refusal(tampered(dense, path, tensors=edit))


def test_memory_that_can_not_be_had_is_said(good, path, monkeypatch):
    monkeypatch.setattr(bank_file, "MOST_VALUES", 2**70)
    vast = tampered(good, path, header=lambda h: (h["base"].update(size=2**60), h["shapes"].update(more=[2**50])))
    assert "GB of memory" in refusal(vast)


# --- other kinds -----------------------------------------------------------------------------------------------------

OTHER = {"kind": "learning rates", "experts": 0, "router": {"steps": 3}}


@pytest.mark.parametrize(
    ("changes", "delta", "gates"),
    [
        ({"shapes": {}}, None, None),
        ({}, DELTA, None),
        ({"experts": EXPERTS}, DELTA, "gates"),
    ],
    ids=["neither", "a delta", "experts"],
)
def test_a_bank_of_another_kind_holds_what_it_says(changes, delta, gates, path):
    known = random_gates(0.1, 0) if gates else None
    facts = header(**OTHER | changes)
    write_bank(path, facts, delta, known, TENSORS)
    found = read_bank(path)
    assert found.header == facts and found.header.settings == {"steps": 3}
    assert read_bank_header(path) == (facts, found.digest)
    assert found.delta.shape == (facts.size,) and (found.gates is None) == (known is None)
    if known is not None:
        assert torch.equal(found.gates, known)
    elif delta is not None:
        assert torch.equal(found.delta, delta)
    assert all(torch.equal(found.tensors[name], values) for name, values in TENSORS.items())


def test_only_other_kinds_are_of_version_2(good, dense, path):
    """So that whoever reads version 1 reads all that it can say, with the names that it has."""
    for first in (good, dense):
        with safe_open(first, "pt") as file:
            metadata = file.metadata()
        assert metadata["version"] == "1" and "router" in json.loads(metadata["header"])
    write_bank(path, header(**OTHER | {"shapes": {}}), None, None, TENSORS)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["version"] == "2" and json.loads(metadata["header"])["settings"] == {"steps": 3}


@pytest.mark.parametrize(
    "changes",
    [{"kind": "x" * 65}, {"kind": ""}, {"kind": "../x"}, {"shapes": {}, "experts": 2}, {"shapes": {"a": (2001,)}}],
)
def test_a_header_of_another_kind_that_can_not_be_is_refused(changes):
    with pytest.raises(ValueError, match="validation error"):
        header(**OTHER | changes)
