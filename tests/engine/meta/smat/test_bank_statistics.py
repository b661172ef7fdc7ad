"""The survey of a bank against counting weight by weight."""

import math
from itertools import combinations

import pytest
import timm
import torch

from fewshot_cli.engine.meta.smat import bank_statistics as surveying
from fewshot_cli.engine.meta.smat.bank_statistics import layer_of, overlap, overlap_by_chance, survey
from fewshot_cli.engine.meta.smat.gates import gates, start_logits

SHAPES = {"stem.weight": (3, 4), "blocks.0.a": (30, 40), "blocks.0.b": (), "blocks.1.a": (50,), "stem.bias": (7,)}
LAYERS = {"stem": [0, *range(1, 12), *range(1263, 1270)], "blocks.0": range(12, 1213), "blocks.1": range(1213, 1263)}
SIZE = 1270


@pytest.fixture(params=[surveying.CHUNK, 64])
def _chunks(request, monkeypatch):
    monkeypatch.setattr(surveying, "CHUNK", request.param)


@pytest.fixture
def bank():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(SIZE, generator=rng), gates(start_logits(SIZE, 3, rng) * 3 - torch.tensor([[0.0], [1.0], [9.0]]))


@pytest.mark.usefixtures("_chunks")
def test_experts_are_counted_as_one_by_one(bank):
    delta, z = bank
    found = survey(SHAPES, delta, z)
    assert found.size == SIZE
    opened = [{i for i in range(SIZE) if row[i] > 0} for row in z.tolist()]
    assert opened[0] and opened[1] and not opened[2]
    assert found.both.tolist() == [[len(a & b) for b in opened] for a in opened]
    assert found.union == len(set.union(*opened))
    assert found.between.tolist() == [sum(0 < value < 1 for value in row) for row in z.tolist()]
    assert [layer.name for layer in found.layers] == list(LAYERS)
    for layer in found.layers:
        places = list(LAYERS[layer.name])
        assert layer.size == len(places)
        assert layer.density == [sum(i in row for i in places) / len(places) for row in opened]
        assert layer.norm == pytest.approx(math.sqrt(sum(float(delta[i]) ** 2 for i in places)))
    shared = overlap(found.both)
    for a, b in combinations(range(3), 2):
        union = len(opened[a] | opened[b])
        assert float(shared[a, b]) == float(shared[b, a]) == pytest.approx(len(opened[a] & opened[b]) / union)
    assert shared.diagonal().tolist() == [1, 1, 0]


@pytest.mark.usefixtures("_chunks")
def test_a_dense_bank_is_counted_as_one_expert():
    delta = torch.arange(SIZE) % 5 * 1.0
    found = survey(SHAPES, delta, None)
    assert found.union == int(found.both) == sum(i % 5 > 0 for i in range(SIZE))
    assert found.between.tolist() == [0]
    assert found.layers[2].density == [0.8]


def test_chance_is_what_random_masks_do():
    density = [0.5, 0.2, 0.1]
    masks = torch.rand(3, 200_000, generator=torch.Generator().manual_seed(0)) < torch.tensor(density)[:, None]
    found = survey({"a": (200_000,)}, torch.ones(200_000), masks.float())
    assert overlap_by_chance(density) == pytest.approx(overlap(found.both).double(), abs=3e-3)
    assert overlap_by_chance([0.0, 0.5]).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ("test_vit", "cls_token pos_embed patch_embed blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 norm"),
        ("test_efficientnet", "conv_stem bn1 blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 conv_head bn2"),
        ("test_resnet", "conv1.0 conv1.1 conv1.3 conv1.4 conv1.6 bn1 layer1.0 layer2.0 layer3.0 layer4.0"),
    ],
)
def test_layers_are_the_parts_of_a_model(model, layers):
    names = [name for name, _ in timm.create_model(model, num_classes=0).named_parameters()]
    assert list(dict.fromkeys(map(layer_of, names))) == layers.split()
