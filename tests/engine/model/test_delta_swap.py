"""An arena against plain merging: the same bits with a delta on, the base's bits with none."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fewshot_cli.engine.delta.change import Change, Delta, Dense, LowRank, Sparse, merge
from fewshot_cli.engine.model import delta_swap as arenas
from fewshot_cli.engine.model.delta_swap import ParameterBuffer

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def module(seed: int = 0) -> nn.Module:
    """A convolution in channels-last memory, a normalisation, a linear layer and one weight of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 5))
        made.register_parameter("single", nn.Parameter(torch.randn(())))
    return made.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def weights(of: nn.Module) -> dict[str, Tensor]:
    return {name: values.detach() for name, values in of.named_parameters()}


def random_change(kind: type[Change], shape: tuple[int, ...], rng: torch.Generator) -> Change:
    """Values from tiny to huge, so that adding and subtracting them would leave other bits."""
    rows, size = (shape or (1,))[0], torch.Size(shape).numel()

    def values(*wanted: int) -> Tensor:
        return torch.randn(wanted, generator=rng) * 10.0 ** torch.randint(-9, 9, wanted, generator=rng)

    if kind is Dense:
        return Dense(values(*shape))
    if kind is LowRank:
        return LowRank(shape, values(rows, 2), values(2, size // rows))
    positions = (torch.rand(size, generator=rng) < 0.3).nonzero().squeeze(1)
    return Sparse(shape, positions, values(len(positions)))


def random_delta(base: dict[str, Tensor], data: st.DataObject) -> Delta:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 20)))
    names = data.draw(st.permutations(list(base)))[: data.draw(st.integers(0, len(base)))]
    kinds = {name: data.draw(st.sampled_from([Dense, Sparse, LowRank])) for name in names}
    return {name: random_change(kind, tuple(base[name].shape), rng) for name, kind in kinds.items()}


def same_bits(found: Tensor, expected: Tensor) -> bool:
    found, expected = (values.cpu().contiguous().view(-1).view(torch.int32) for values in (found, expected))
    return torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None)
@given(st.data())
def test_whatever_was_on_a_delta_is_merged_to_the_bit_and_the_base_comes_back(device, data):
    original = module().to(device)
    base = weights(original)
    there = copy.deepcopy(original)
    arena = ParameterBuffer(there)
    deltas = [random_delta(base, data) for _ in range(3)]
    ready = [arena.prepared(delta) for delta in deltas]
    for step in data.draw(st.lists(st.sampled_from([0, 1, 2, None]), max_size=8)):
        if step is None:
            arena.restore()
        else:
            arena.apply(ready[step])
        on = {} if step is None else deltas[step]
        expected = merge({name: values.cpu() for name, values in base.items()}, on)
        if device == "cpu" or not any(isinstance(change, LowRank) for change in on.values()):
            assert all(same_bits(values, expected[name]) for name, values in weights(there).items())
    arena.restore()
    assert all(same_bits(values, base[name]) for name, values in weights(there).items())


@pytest.mark.parametrize("block", [1, 7])
def test_it_does_not_matter_how_many_values_are_changed_at_once(block, monkeypatch):
    monkeypatch.setattr(arenas, "BLOCK", block)
    there = module()
    base = {name: values.clone() for name, values in weights(there).items()}
    arena = ParameterBuffer(there)
    rng = torch.Generator().manual_seed(1)
    delta = {name: random_change(Sparse, tuple(values.shape), rng) for name, values in base.items()}
    arena.apply(arena.prepared(delta))
    assert all(same_bits(values, merge(base, delta)[name]) for name, values in weights(there).items())
    arena.restore()
    assert all(same_bits(values, base[name]) for name, values in weights(there).items())


def test_the_module_itself_runs_on_the_arena():
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    there, plain = module(), module()
    arena = ParameterBuffer(there)
    torch.testing.assert_close(there(images), plain(images))
    rng = torch.Generator().manual_seed(2)
    delta = {"0.weight": random_change(Sparse, (6, 3, 3, 3), rng), "3.bias": Dense(torch.ones(5))}
    arena.apply(arena.prepared(delta))
    moved = torch.func.functional_call(plain, merge(weights(plain), delta), (images,))
    torch.testing.assert_close(there(images), moved)
    assert not torch.equal(moved, plain(images))
    arena.restore()
    torch.testing.assert_close(there(images), plain(images))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["SSE41", "AVX2", "DEFAULT"])
def test_it_answers_as_the_module_does_with_the_kernels_of_other_processors(isa):
    """oneDNN takes kernels by instruction set once, when it is first used: hence a process of its own."""
    told = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_delta_swap as t; t.same_answers()"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    ran = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, timeout=120)
    assert ran.returncode == 0, ran.stderr.decode()


def same_answers() -> None:
    torch.set_num_threads(1)
    test_the_module_itself_runs_on_the_arena()


def test_parameters_are_views_of_one_buffer_and_other_state_stays():
    there = module()
    running = there[1].running_mean
    arena = ParameterBuffer(there)
    assert arena.flat.numel() == sum(values.numel() for values in weights(there).values())
    assert {values.untyped_storage().data_ptr() for values in weights(there).values()} == {
        arena.flat.untyped_storage().data_ptr()
    }
    assert there[1].running_mean is running


def test_preparing_changes_nothing():
    there = module()
    arena = ParameterBuffer(there)
    before = arena.flat.clone()
    change = Sparse((5,), torch.tensor([1, 4]), torch.tensor([1.0, 2.0]))
    ready = arena.prepared({"3.bias": change})
    assert torch.equal(arena.flat, before) and arena.applied is None
    assert ready.values.tolist() == [1.0, 2.0]
    arena.apply(ready)
    assert arena.applied is ready and int((arena.flat != before).sum()) == 2
