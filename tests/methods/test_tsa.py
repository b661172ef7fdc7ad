"""TSA against the numbers of the published implementation."""

import pytest
import torch
from torch import Tensor, nn

from fewshot_cli.engine.adaptation import Adapted, Run, Support
from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.delta.change import Dense
from fewshot_cli.engine.grafts import Graft
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.methods.tsa import MAP, TSA, FeatureMap


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.downsample = nn.Identity()
        if stride > 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.downsample(x)).relu()


class SmallResNet(nn.Module):
    """The network of the file: a stem without pooling, four layers of one block each, a global mean."""

    num_features = 12

    def __init__(self, widths: list[int], strides: list[int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 5, 2, 1, bias=False), nn.BatchNorm2d(widths[0])
        for i, (inputs, width, stride) in enumerate(zip(widths, widths[1:], strides, strict=False), 1):
            self.add_module(f"layer{i}", nn.Sequential(Block(inputs, width, stride)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def published(golden):
    return golden("tsa")


@pytest.fixture(scope="module")
def backbone(published) -> Backbone:
    vectors, config = published
    module = SmallResNet(config["widths"], config["strides"])
    weights = {key.removeprefix("weights."): value for key, value in vectors.items() if key.startswith("weights.")}
    module.load_state_dict(weights, strict=False)
    assert set(weights) == {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    as_they_are = Preprocessing((20, 20), 1.0, "center", "bicubic", mean=(0.0,) * 3, std=(1 / 255,) * 3)
    return Backbone("golden", module.eval().requires_grad_(False), as_they_are, 12, weights, "MIT")


@pytest.fixture(scope="module")
def support(published, backbone) -> Support:
    vectors, _ = published
    return Support(vectors["support_x"], vectors["support_y"], backbone.features(vectors["support_x"]), way=4)


def test_the_network_is_the_published_one(published, backbone):
    vectors, _ = published
    torch.testing.assert_close(
        backbone.features(vectors["query_x"]), vectors["plain.query_features"], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("form", ["matrix", "vector"])
def test_folded_adapters_and_the_map_give_the_published_answers(published, backbone, support, form):
    vectors, _ = published
    start = f"fwd.residual_{form}."
    alphas = {key.removeprefix(start): v for key, v in vectors.items() if key.startswith(start) and "alpha" in key}
    base = {f"{name.removesuffix('.alpha')}.weight": alpha for name, alpha in alphas.items()}
    params = {n: a.flatten() if a.shape[0] == 1 else a[:, :, 0, 0] for n, a in base.items()}
    delta = TSA().delta(params, {name: backbone.params[name] for name in base})
    graft = Graft(FeatureMap(), ("",), {MAP: vectors[f"{start}beta"]})
    moved = Adapted(delta, TSA(tuning={"optim": {"steps": 0}}).adapt(backbone, support, Run()).head)
    found = Model(backbone, moved).features(vectors["query_x"])
    torch.testing.assert_close(found, vectors[f"{start}query_features"], atol=1e-5, rtol=0)
    model = Model(backbone, Adapted(delta, moved.head, graft))
    vectors_of_classes = torch.stack([model.features(support.images[support.labels == c]).mean(0) for c in range(4)])
    cosine = torch.cosine_similarity(model.features(vectors["query_x"])[:, None], vectors_of_classes[None], dim=2)
    torch.testing.assert_close(10 * cosine, vectors[f"{start}logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("run", "tolerance", "logit_tolerance"),
    [
        ("unseen1", 1e-5, 1e-5),
        ("seen40", 1e-4, 1e-4),
        ("vector10", 1e-4, 1e-4),
        ("unseen40", 2e-2, 5e-2),
        ("alpha40", 1e-2, 1e-2),
    ],
)
def test_training_takes_the_published_steps(published, backbone, support, run, tolerance, logit_tolerance):
    """Losses, logits and the map.

    Forty large steps of Adadelta amplify rounding: the order of the images alone moves losses of `unseen40` by 1 %.
    Its logits end in one of two places, 2 % apart: pixels moved by 2e-7 come within 0.02 % of the published ones twice
    in eight times, and the processor's instructions move the other place by 0.1 %.
    """
    vectors, config = published
    facts = config["runs"][run]
    method = TSA(
        form=facts["form"],
        map="beta" in facts["opt"],
        map_lr=facts["lr_beta"] / facts["lr"] if "beta" in facts["opt"] else 2.0,
        tuning={
            "head": "prototypes",
            "augment": 0,
            "optim": {"name": "adadelta", "lr": facts["lr"], "steps": facts["steps"], "batch": None},
        },
    )
    losses = []
    adapted = method.adapt(backbone, support, Run(watch=lambda step, steps, loss: losses.append(loss)))
    assert losses == pytest.approx(vectors[f"{run}.losses"].tolist(), rel=tolerance, abs=tolerance * max(losses))
    logits = Model(backbone, adapted).logits(vectors["query_x"])
    assert (logits - vectors[f"{run}.logits"]).abs().max() < logit_tolerance * vectors[f"{run}.logits"].abs().max()
    if f"{run}.beta" in vectors:
        assert (adapted.graft.params[MAP] - vectors[f"{run}.beta"]).abs().max() < tolerance
    if run in ("unseen1", "seen40"):
        for name, change in adapted.delta.items():
            alpha = vectors[f"{run}.{name.removesuffix('.weight')}.alpha"][:, :, 0, 0]
            assert (change.values[:, :, 1, 1] - alpha).abs().max() < tolerance * max(1.0, float(alpha.abs().max()))
            assert not change.values.masked_fill(torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]]).bool(), 0).any()


def test_without_the_map_the_answer_is_a_delta(vit, easy):
    adapted = TSA(map=False, tuning={"optim": {"steps": 2, "lr": 0.5}}).adapt(vit, easy(vit), Run())
    assert adapted.graft is None
    assert all(isinstance(change, Dense) for change in adapted.delta.values())
    with pytest.raises(ValueError, match="learns no map"):
        TSA(map=False, map_lr=1.0)


@pytest.mark.parametrize("setting", [{"form": "vector"}, {"map_lr": 0.0}, {"targets": "(proj|fc1).weight$"}])
def test_every_setting_changes_what_is_learned(vit, easy, setting):
    tuning = {"head": "prototypes", "augment": 0, "optim": {"name": "adadelta", "lr": 0.5, "steps": 2, "batch": None}}
    first, other = (TSA(tuning=tuning, **s).adapt(vit, easy(vit), Run()).head.weight for s in ({}, setting))
    assert not torch.equal(first, other)
