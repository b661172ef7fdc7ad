"""A delta as an adapter and back again; what PEFT makes of adapters is in tests/jobs/interop/test_peft.py."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewshot_cli.engine.delta.change import Dense, LowRank, Sparse, all_values, merge
from fewshot_cli.engine.delta.peft_adapter import PREFIX, adapter_of
from fewshot_cli.engine.delta.peft_modules import adapter_settings, changes_of, saved_changes
from fewshot_cli.errors import FewshotError

HERE = Path("an-adapter")
LINEAR = [f"blocks.{i}.{part}" for i in range(3) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


def low_rank(shape, rank, rng):
    right = torch.randn(rank, shape[1:].numel(), generator=rng)
    return LowRank(tuple(shape), torch.randn(shape[0], rank, generator=rng), right)


def sparse(shape, count, rng):
    positions = torch.randperm(shape.numel(), generator=rng)[:count].sort().values
    return Sparse(tuple(shape), positions, torch.rand(count, generator=rng) + 0.1)


def read_again(adapter, module):
    raw = adapter.settings | {"peft_type": adapter.kind}
    return changes_of(adapter_settings(raw, HERE), adapter.tensors, module, HERE)


def assert_same(delta, found):
    assert found.keys() == delta.keys()
    for name, change in delta.items():
        assert torch.equal(all_values(found[name]), all_values(change)), name


@settings(max_examples=25, deadline=None)
@given(
    layers=st.lists(st.sampled_from(LINEAR), min_size=1, unique=True),
    ranks=st.lists(st.integers(1, 9), min_size=12, max_size=12),
    is_low_rank=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_mix_of_ranks_or_densities_comes_back_as_it_was(vit, layers, ranks, is_low_rank, seed):
    rng = torch.Generator().manual_seed(seed)
    make = low_rank if is_low_rank else (lambda shape, rank, rng: sparse(shape, 37 * rank, rng))
    delta = {
        f"{layer}.weight": make(vit.params[f"{layer}.weight"].shape, rank, rng)
        for layer, rank in zip(layers, ranks, strict=False)
    }
    adapter = adapter_of(delta, vit.module, {})
    assert adapter.kind == ("LORA" if is_low_rank else "SHIRA") and adapter.whole == ()
    again = read_again(adapter, vit.module)
    assert_same(delta, again.delta)
    assert again.saved == {}


def test_kernels_of_convolutions_are_matrices_to_lora(conv):
    rng = torch.Generator().manual_seed(0)
    names = [name for name, values in conv.params.items() if values.ndim == 4 and values.shape[1] > 1]
    delta = {name: low_rank(conv.params[name].shape, 2, rng) for name in names}
    assert any(conv.params[name].shape[-1] > 1 for name in names) and len(names) > 5
    assert_same(delta, read_again(adapter_of(delta, conv.module, {}), conv.module).delta)


def test_what_the_adapter_cannot_express_comes_as_whole_modules(vit):
    rng = torch.Generator().manual_seed(0)
    kernel, norm = "patch_embed.proj.weight", "blocks.0.norm1.bias"
    delta = {
        "blocks.0.attn.qkv.weight": sparse(vit.params["blocks.0.attn.qkv.weight"].shape, 50, rng),
        kernel: sparse(vit.params[kernel].shape, 5, rng),
        norm: Dense(torch.ones(vit.params[norm].shape)),
    }
    moved = merge({name: vit.params[name] for name in delta}, delta)
    adapter = adapter_of(delta, vit.module, moved)
    assert adapter.whole == ("blocks.0.norm1", "patch_embed.proj")
    again = read_again(adapter, vit.module)
    assert torch.equal(again.saved["patch_embed.proj.bias"], vit.params["patch_embed.proj.bias"])
    whole = saved_changes(again.saved, vit.module, HERE)
    assert whole.keys() == {kernel, norm}
    for name, change in whole.items():
        torch.testing.assert_close(change.added_to(vit.params[name]), moved[name])


@pytest.mark.parametrize(
    ("delta", "says"),
    [
        ({}, "head only"),
        ({"blocks.0.attn.qkv.bias": Dense(torch.ones(192))}, "blocks.0.attn.qkv.bias is dense"),
        ({"patch_embed.proj.weight": Sparse((64, 3, 16, 16), torch.tensor([1]), torch.ones(1))}, "of a convolution"),
    ],
)
def test_what_peft_has_no_adapter_for_is_named(vit, delta, says):
    with pytest.raises(FewshotError, match=says) as caught:
        adapter_of(delta, vit.module, {})
    assert "safetensors" in caught.value.hint and "onnx" in caught.value.hint


QKV = {"blocks.0.attn.qkv.weight": LowRank((192, 64), torch.ones(192, 1), torch.ones(1, 64))}


def test_a_layer_that_the_model_never_calls_can_have_no_adapter(vit):
    """EVA-02 and BEiT compute with a weight of theirs themselves: PEFT's change of that layer's output is not seen."""
    called = vit.called - {"blocks.0.attn.qkv"}
    assert len(called) < len(vit.called)
    with pytest.raises(FewshotError, match=r"blocks\.0\.attn\.qkv\.weight without calling the layer"):
        adapter_of(QKV, vit.module, {}, called)
    adapter = adapter_of(QKV, vit.module, {}, vit.called)
    settings = adapter_settings(adapter.settings | {"peft_type": adapter.kind}, HERE)
    changes_of(settings, adapter.tensors, vit.module, HERE, vit.called)
    with pytest.raises(FewshotError, match=r"blocks\.0\.attn\.qkv, a layer of which"):
        changes_of(settings, adapter.tensors, vit.module, HERE, called)


def test_a_change_of_nothing_needs_no_whole_module(vit):
    nothing = {"blocks.1.attn.qkv.weight": LowRank((192, 64), torch.zeros(192, 0), torch.zeros(0, 64))}
    adapter = adapter_of(QKV | nothing, vit.module, {})
    assert adapter.whole == () and adapter.settings["target_modules"] == ["blocks.0.attn.qkv"]
    with pytest.raises(FewshotError, match="head only"):
        adapter_of(nothing, vit.module, {})


def test_a_convolution_that_lora_cannot_express_is_called_so():
    module = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    delta = {"0.weight": LowRank((4, 2, 1, 1), torch.ones(4, 1), torch.ones(1, 2))}
    with pytest.raises(FewshotError, match="of low rank, of a convolution that is grouped"):
        adapter_of(delta, module, {})


@pytest.mark.parametrize("name", ["blocks.0.attn.qkv.bias", "cls_token"])
def test_what_no_whole_module_can_bring_is_named(vit, name):
    delta = {
        "blocks.0.attn.qkv.weight": LowRank((192, 64), torch.ones(192, 1), torch.ones(1, 64)),
        name: Dense(torch.ones(vit.params[name].shape)),
    }
    with pytest.raises(FewshotError, match=name):
        adapter_of(delta, vit.module, merge({n: vit.params[n] for n in delta}, delta))


def test_a_copy_of_the_model_is_no_adapter(vit):
    delta = {f"{layer}.weight": Dense(torch.ones(vit.params[f"{layer}.weight"].shape)) for layer in LINEAR * 1}
    delta |= {f"blocks.{i}.mlp.fc1.weight": Dense(torch.ones(192, 64)) for i in (3, 4, 5)}
    delta["blocks.3.attn.qkv.weight"] = LowRank((192, 64), torch.ones(192, 1), torch.ones(1, 64))
    with pytest.raises(FewshotError, match="copy of the model"):
        adapter_of(delta, vit.module, merge({n: vit.params[n] for n in delta}, delta))


def test_layers_too_small_for_the_density_of_the_others_are_named(vit):
    rng = torch.Generator().manual_seed(0)
    big, small = "blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight"
    delta = {big: sparse(vit.params[big].shape, 12000, rng), small: sparse(vit.params[small].shape, 3, rng)}
    with pytest.raises(FewshotError, match=r"blocks\.0\.attn\.proj\.weight"):
        adapter_of(delta, vit.module, {})


LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (LORA | {"use_dora": True}, "use_dora"),
        (LORA | {"bias": "lora_only"}, "bias"),
        (LORA | {"lora_bias": True}, "lora_bias"),
        (LORA | {"fan_in_fan_out": True}, "fan_in_fan_out"),
        (LORA | {"layer_replication": [[0, 4]]}, "layer_replication"),
        (LORA | {"target_parameters": ["blocks"]}, "target_parameters"),
        (LORA | {"what_comes_next": {"year": 2030}}, "what_comes_next"),
        (LORA | {"init_lora_weights": "pissa"}, "pissa"),
        (LORA | {"r": 0}, "wrong r"),
        ({"peft_type": "IA3"}, "IA3"),
        ({}, "peft_type"),
    ],
)
def test_settings_that_nobody_here_can_follow_are_refused(raw, says):
    with pytest.raises(FewshotError, match=says) as caught:
        adapter_settings(raw, HERE)
    assert "an-adapter" in caught.value.problem and caught.value.hint


def tensors_of_lora(layer="blocks.0.attn.qkv", rows=192, rank=2, columns=64):
    names = (f"{PREFIX}{layer}.lora_A.weight", f"{PREFIX}{layer}.lora_B.weight")
    return dict(zip(names, (torch.ones(rank, columns), torch.ones(rows, rank)), strict=True))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (tensors_of_lora("blocks.9.attn.qkv"), r"blocks\.9\.attn\.qkv"),
        (tensors_of_lora("head"), "head"),
        (tensors_of_lora("norm"), "norm"),
        (tensors_of_lora(rows=191), r"\(191, 2\)"),
        (tensors_of_lora(rank=3), r"\(3, 64\)"),
        (tensors_of_lora(columns=65), r"\(2, 65\)"),
        ({k: v * float("nan") for k, v in tensors_of_lora().items()}, "not a number"),
        ({k: v * 1e30 for k, v in tensors_of_lora().items()}, "more than numbers hold"),
        (dict(list(tensors_of_lora().items())[:1]), "lora_B"),
        (tensors_of_lora() | {f"{PREFIX}blocks.0.attn.qkv.lora_magnitude_vector": torch.ones(192)}, "magnitude"),
        (tensors_of_lora() | {"elsewhere": torch.ones(2)}, "elsewhere"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(vit, tensors, says):
    with pytest.raises(FewshotError, match=says):
        changes_of(adapter_settings(LORA, HERE), tensors, vit.module, HERE)


@pytest.mark.parametrize(
    "indices",
    [torch.tensor([[192], [0]]), torch.tensor([[0], [64]]), torch.tensor([[-1], [0]]), torch.full((2, 1), 0.5)],
)
def test_shira_positions_beyond_the_layer_are_refused(vit, indices):
    name = f"{PREFIX}blocks.0.attn.qkv"
    tensors = {f"{name}.shira_weight": torch.ones(256), f"{name}.shira_indices": indices.expand(2, 256)}
    with pytest.raises(FewshotError, match="beyond"):
        changes_of(adapter_settings({"peft_type": "SHIRA", "r": 1}, HERE), tensors, vit.module, HERE)


def test_shira_positions_that_are_there_twice_add_up_as_in_peft(vit):
    name = f"{PREFIX}blocks.0.attn.qkv"
    tensors = {f"{name}.shira_weight": torch.ones(256), f"{name}.shira_indices": torch.zeros(2, 256)}
    found = changes_of(adapter_settings({"peft_type": "SHIRA", "r": 1}, HERE), tensors, vit.module, HERE)
    change = found.delta["blocks.0.attn.qkv.weight"]
    assert change.positions.tolist() == [0] and change.values.tolist() == [256]


@pytest.mark.parametrize("pattern", ["(a+)+", "(.*)*x", ".*.*.*.*", "a" * 300, "[", "(" * 50])
def test_patterns_that_take_forever_or_are_none_are_refused(pattern):
    found = adapter_settings(LORA | {"rank_pattern": {pattern: 3}}, HERE)
    with pytest.raises(FewshotError, match="pattern"):
        found.rank("blocks.0.attn.qkv")


def test_patterns_choose_as_in_peft():
    patterns = {"qkv": 3, r"^blocks\.1\.mlp\.fc1": 5, r"blocks\.[0-9]+\.mlp.*": 7}
    found = adapter_settings(LORA | {"rank_pattern": patterns, "alpha_pattern": {"qkv": 9}}, HERE)
    assert [found.rank(name) for name in ("blocks.0.attn.qkv", "blocks.1.mlp.fc1", "x.blocks.11.mlp.fc2", "qk")] == [
        3,
        5,
        7,
        2,
    ]
    assert found.scale("blocks.0.attn.qkv", 3) == 3 and found.scale("other", 2) == 2


def test_a_rank_that_asks_for_any_amount_of_memory_is_refused_before_projections_are_drawn(vit):
    raw = {"peft_type": "VERA", "r": 10**9, "save_projection": False, "projection_prng_key": 0}
    layer = f"{PREFIX}blocks.0.attn.qkv"
    tensors = {f"{layer}.vera_lambda_b": torch.ones(3), f"{layer}.vera_lambda_d": torch.ones(3)}
    with pytest.raises(FewshotError, match="has a rank of 1000000000; at most"):
        changes_of(adapter_settings(raw, HERE), tensors, vit.module, HERE)


ODD = (
    None,
    True,
    False,
    0,
    -1,
    3,
    2**70,
    0.5,
    1e308,
    float("nan"),
    "",
    "none",
    "x" * 300,
    [],
    [1, None],
    {},
    {"a": "b"},
)


@pytest.mark.parametrize("kind", ["LORA", "SHIRA", "VERA"])
def test_no_setting_of_peft_with_any_value_is_a_traceback(kind):
    """Every field of its settings, of today's PEFT: what we take, we can ask of; what we don't is a sentence."""
    peft = pytest.importorskip("peft")
    config = {"LORA": peft.LoraConfig, "SHIRA": peft.ShiraConfig, "VERA": peft.VeraConfig}[kind]
    usual = json.loads(json.dumps(config().to_dict(), default=str)) | {"peft_type": kind}
    assert len(usual) > 10 and adapter_settings(usual, HERE).peft_type == kind
    outcomes = set()
    for name in (*usual, "of_tomorrow"):
        for value in ODD:
            try:
                settings = adapter_settings(usual | {name: value}, HERE)
                assert settings.rank("a") >= 1 and math.isfinite(settings.scale("a", 2))
                outcomes.add("read")
            except FewshotError as error:
                assert "an-adapter" in error.problem or "adapter_config.json" in error.problem
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize(
    "raw", [{"rank_pattern": {"a": 0}}, {"rank_pattern": {"a": -2}}, {"projection_prng_key": 2**64}]
)
def test_ranks_and_seeds_that_are_none_are_refused(raw):
    with pytest.raises(FewshotError, match=next(iter(raw))):
        adapter_settings(LORA | raw, HERE)
