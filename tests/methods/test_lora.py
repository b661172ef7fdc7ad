"""LoRA against its formula, PEFT's initialisation and CLIP-LoRA's published merge."""

import math

import pytest
import torch

from fewshot_cli.engine.adaptation import Run
from fewshot_cli.engine.delta.change import merge
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.methods.lora import LoRA

QKV = "blocks.0.attn.qkv.weight"


def whole(base):
    return {name: {"all": torch.arange(len(weight))} for name, weight in base.items()}


def parts_of(base, parts):
    """Each of the parts in its third of every matrix, as timm's attention has them."""
    thirds = {name: torch.arange(len(weight)).chunk(3) for name, weight in base.items()}
    return {name: {part: rows["qkv".index(part)] for part in parts} for name, rows in thirds.items()}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_starts_at_no_change(backbone):
    method = LoRA()
    base = {name: weight for name, weight in backbone.params.items() if "qkv.weight" in name or "conv_pw" in name}
    merged = merge(base, method.delta(method.start(base, whole(base), rng()), base, whole(base)))
    assert base
    assert all(torch.equal(merged[name], base[name]) for name in base)


def test_a_is_drawn_as_published_and_b_is_zero():
    """kaiming_uniform with a = sqrt(5), as torch.nn.init has it: uniform within 1 / sqrt(columns)."""
    base = {"w": torch.zeros(300, 400)}
    params = LoRA(rank=50).start(base, whole(base), rng())
    oracle = torch.nn.init.kaiming_uniform_(torch.empty(50, 400), a=math.sqrt(5), generator=rng())
    torch.testing.assert_close(params["w/all/A"], oracle)
    assert not params["w/all/B"].any()
    assert params["w/all/B"].shape == (300, 50)


@pytest.mark.parametrize(("scaling", "factor"), [("alpha/rank", 6 / 4), ("alpha/sqrt(rank)", 6 / 2)])
def test_each_part_is_a_pair_of_its_own_times_the_factor(scaling, factor):
    base = {QKV: torch.randn(12, 5, generator=rng())}
    method = LoRA(rank=4, alpha=6, scaling=scaling)
    blocks = parts_of(base, "qv")
    params = {
        name: torch.randn(values.shape, generator=rng(1)) for name, values in method.start(base, blocks, rng()).items()
    }
    assert set(params) == {f"{QKV}/{part}/{letter}" for part in "qv" for letter in "AB"}
    change = merge(base, method.delta(params, base, blocks))[QKV] - base[QKV]
    torch.testing.assert_close(change[0:4], factor * params[f"{QKV}/q/B"] @ params[f"{QKV}/q/A"], rtol=1e-4, atol=1e-5)
    assert not change[4:8].any()
    torch.testing.assert_close(change[8:12], factor * params[f"{QKV}/v/B"] @ params[f"{QKV}/v/A"], rtol=1e-4, atol=1e-5)


def test_the_merge_is_clip_loras(golden):
    vectors, config = golden("clip_lora")
    base = {QKV: vectors["W"]}
    assert config["scaling"] == "alpha/sqrt(r)"
    method = LoRA(rank=config["r"], alpha=config["alpha"], scaling="alpha/sqrt(rank)")
    params = {f"{QKV}/{part}/{letter}": vectors[f"{letter}.{part}"] for part in "qkv" for letter in "AB"}
    assert {name: values.shape for name, values in method.start(base, parts_of(base, "qkv"), rng()).items()} == {
        name: values.shape for name, values in params.items()
    }
    merged = merge(base, method.delta(params, base, parts_of(base, "qkv")))[QKV]
    torch.testing.assert_close(merged, vectors["merged_in_proj"], rtol=0, atol=1e-6)


def test_the_gradients_through_the_merge_are_clip_loras(golden):
    """Attention of 2 heads under the merged weight, without a mask: output and the gradients of all six factors."""
    vectors, config = golden("clip_lora")
    method = LoRA(rank=2, alpha=1, scaling="alpha/sqrt(rank)")
    names = [f"{letter}.{part}" for part in "qkv" for letter in "AB"]
    params = {f"{QKV}/{n[2]}/{n[0]}": vectors[n].clone().requires_grad_() for n in names}
    base = {QKV: vectors["W"]}
    merged = merge(base, method.delta(params, base, parts_of(base, "qkv")))[QKV]
    x, width, heads = vectors["x"], config["width"], config["heads"]
    y, _ = torch.nn.functional.multi_head_attention_forward(
        x, x, x, width, heads, merged, vectors["b"], None, None, False, 0.0, vectors["Wo"], vectors["bo"]
    )
    torch.testing.assert_close(y, vectors["vision.y"], rtol=1e-5, atol=1e-5)
    (y * vectors["coef"]).sum().backward()
    for n in names:
        expected = vectors[f"vision.grad.{n}"]
        assert (params[f"{QKV}/{n[2]}/{n[0]}"].grad - expected).abs().max() < 1e-4 * expected.abs().max(), n


def test_the_change_of_a_trained_matrix_has_the_rank(backbone, easy):
    method = LoRA(rank=2, tuning=Tuning(optim=Optim(lr=1e-2, steps=3)))
    adapted = method.adapt(backbone, easy(backbone), Run())
    assert adapted.delta
    for name, change in adapted.delta.items():
        matrix = change.added_to(torch.zeros_like(backbone.params[name])).flatten(1)
        blocks = (
            {"q": matrix.chunk(3)[0], "k": matrix.chunk(3)[1], "v": matrix.chunk(3)[2]}
            if "qkv" in name
            else {"": matrix}
        )
        for part, block in blocks.items():
            assert torch.linalg.matrix_rank(block) == (0 if part == "k" else 2)


def test_a_rank_above_the_columns_is_the_columns():
    base = {"w": torch.zeros(7, 3)}
    params = LoRA(rank=99).start(base, whole(base), rng())
    assert params["w/all/A"].shape == (3, 3)
    assert params["w/all/B"].shape == (7, 3)
