"""Mixture-of-Adapters against the numbers of the published implementation, and what hangs it into a transformer."""

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.adaptation import Run
from fewshot_cli.engine.grafts import check_graft, holder_names, hung, sites_of
from fewshot_cli.engine.model.model import Model, grafted
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.kadaptation import KAdaptation
from fewshot_cli.methods.moa import MoA, TokenMixture, _Training, balancing_loss

SITE = "qkv"
QUICK = {"tuning": {"optim": {"steps": 3}}}


class Published:
    """One adapted layer of a file: the parameters as the graft calls them, and what goes in and comes out."""

    def __init__(self, vectors, config) -> None:
        self.vectors = vectors
        form = "kronecker" if "in.phm.left" in vectors else "lora"
        router = vectors["in.router.Wr"].shape[0]
        self.kind = TokenMixture(form=form, ranks=tuple(config["ranks"]), router=router)
        self.names = {
            f"{SITE}/router/W": "router.Wr",
            f"{SITE}/router/b": "router.br",
            f"{SITE}/router/S": "router.S",
            f"{SITE}/router/t": "router.t",
        }
        factors = ("A", "B") if form == "lora" else ("U", "V")
        self.names |= {f"{SITE}/{i}/{part}": f"expert{i}.{part}" for i in range(4) for part in factors}
        if form == "kronecker":
            self.names |= {"left": "phm.left", "right": "phm.right", f"{SITE}/bias": "b_adapter"}
        self.params = {name: vectors[f"in.{theirs}"].clone().requires_grad_() for name, theirs in self.names.items()}
        self.x = vectors["in.x"].clone().requires_grad_()
        self.frozen = F.linear(self.x, vectors["in.W"], vectors["in.b"])


@pytest.fixture(params=["moa_lora", "moa_kadaptation"])
def published(request, golden) -> Published:
    return Published(*golden(request.param))


def close(found, expected, tolerance=1e-5):
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_answers_are_the_published_ones(published):
    vectors, kind = published.vectors, published.kind
    logits = kind.router_logits(SITE, published.params, published.x)
    if "out.eval.logits" in vectors:
        close(logits.flatten(0, -2), vectors["out.eval.logits"])
    assert torch.equal(logits.flatten(0, -2).argmax(-1), vectors["out.eval.e"])
    close(kind.output(SITE, published.params, published.x, published.frozen), vectors["out.eval.y"])
    close(0.01 * balancing_loss(logits.softmax(-1), logits.softmax(-1)), vectors["out.eval.aux"].squeeze())


def test_training_has_the_published_losses_and_gradients(published, monkeypatch):
    vectors = published.vectors
    monkeypatch.setattr(torch, "randn", lambda shape, **_: vectors["in.noise"].reshape(shape))
    method = MoA(form=published.kind.form, ranks=published.kind.ranks, router=published.kind.router)
    training = _Training(method.model_copy(update={"dropout": 0.0}), torch.Generator())
    y = training.output(SITE, published.params, published.x, published.frozen)
    close(y, vectors["out.train.y"])
    (loss,) = training.losses
    close(method.balance * loss, vectors["out.train.aux"].squeeze())
    total = (y * vectors["in.coef"]).sum() / 100 + 50 * method.balance * loss
    total.backward()
    for name, theirs in published.names.items():
        expected = vectors[f"out.grad.{theirs}"]
        assert (published.params[name].grad - expected).abs().max() <= 1e-4 * max(expected.abs().max(), 1e-3), name
    close(published.x.grad, vectors["out.grad.x"], 1e-4)


def test_the_published_change_is_the_sum_of_kronecker_products(golden):
    """KAdaptation alone adds the transpose of H to the weight; by the definition, term by term, too."""
    vectors, _ = golden("moa_kadaptation")
    for i in range(4):
        params = {"left": vectors["in.phm.left"], "right": vectors["in.phm.right"], "qkv/bias": torch.zeros(384)}
        params |= {f"qkv/{part}": vectors[f"in.expert{i}.{part}"] for part in ("U", "V")}
        change = KAdaptation().delta(params, ("qkv",))["qkv.weight"].values
        close(change.T[:6], vectors[f"out.H{i}.rows0to5"])
        outer, inner = params["left"] @ params["right"], params["qkv/U"] @ params["qkv/V"]
        close(change.T, sum(torch.kron(a, b) for a, b in zip(outer, inner, strict=True)))


@pytest.mark.parametrize("form", ["lora", "kronecker"])
def test_a_graft_keeps_the_names_of_the_base_and_lora_changes_nothing_at_the_start(vit, pictures, form):
    method = MoA(form=form, blocks="all")
    sites = tuple(name for name, _ in vit.module.named_modules() if name.endswith("qkv"))
    start = method.start(vit, sites_of(vit.module, sites), seed=0)
    grown = grafted(vit, sites, start, method.kind.output)
    own = set(holder_names(start).values())
    assert {name for name, _ in grown.module.named_parameters()} - own == set(vit.params)
    for name, values in grown.module.named_parameters():
        assert name in own or values is dict(vit.module.named_parameters())[name]
    images, _ = pictures((2, 2), seed=1)
    plain, seen = vit.frozen_features(images), grown.frozen_features(images)
    if form == "lora":
        assert torch.equal(plain, seen)
    else:
        assert 0 < (plain - seen).abs().max() < 1e-2 * plain.abs().max()


def test_a_wrong_graft_is_refused_with_what_is_wrong(vit, easy):
    graft = MoA(form="lora", **QUICK).adapt(vit, easy(vit), Run()).graft
    check_graft(graft, vit.module)
    name = next(iter(graft.params))
    for params in (
        {key: values for key, values in graft.params.items() if key != name},
        graft.params | {name: torch.zeros(3)},
        graft.params | {"more": torch.zeros(3)},
    ):
        with pytest.raises(ValueError, match="is"):
            check_graft(type(graft)(graft.kind, graft.sites, params), vit.module)
    with pytest.raises(ValueError, match=r"no module 'blocks\.77'"):
        hung(vit.module, ["blocks.77"], graft.params, graft.kind.output)
    with pytest.raises(ValueError, match="no linear layer"):
        check_graft(type(graft)(graft.kind, ("norm",), graft.params), vit.module)


def test_every_part_of_the_mixture_is_trained(vit, easy):
    method = MoA(blocks="all", balance=1.0, **QUICK)
    sites = tuple(name for name, _ in vit.module.named_modules() if name.endswith("qkv"))
    start = method.start(vit, sites_of(vit.module, sites), seed=5)
    graft = method.adapt(vit, easy(vit), Run(5)).graft
    assert graft.sites == sites
    assert all(not torch.equal(start[name], values) for name, values in graft.params.items())


@pytest.mark.slow
def test_the_balancing_loss_and_the_dropout_change_what_is_learned(vit, easy):
    def learned(**settings):
        return MoA(**settings, **QUICK).adapt(vit, easy(vit), Run()).graft.params

    first = learned()
    for other in (learned(balance=0.0), learned(dropout=0.0), learned(router=8), learned(size=32)):
        assert any(first[n].shape != other[n].shape or not torch.equal(first[n], other[n]) for n in first)


def test_answers_of_training_and_of_the_file_agree(vit, easy, pictures):
    """The trained head answers about features without noise, as the graft gives them."""
    adapted = MoA(**QUICK, form="lora").adapt(vit, easy(vit), Run())
    images, _ = pictures((3, 3, 3), seed=4)
    again = grafted(vit, adapted.graft.sites, adapted.graft.params, adapted.graft.kind.output)
    assert torch.equal(Model(vit, adapted).features(images), again.frozen_features(images))
    assert not torch.equal(Model(vit, adapted).features(images), vit.frozen_features(images))


@pytest.mark.parametrize("method", [MoA(), KAdaptation()])
def test_a_backbone_without_such_attention_is_an_error(conv, easy, method):
    with pytest.raises(FewshotError, match="has no attention with one matrix"):
        method.adapt(conv, easy(conv), Run())


@pytest.mark.parametrize("method", [MoA(size=7), KAdaptation(size=7)])
def test_a_size_that_does_not_divide_is_an_error(vit, easy, method):
    with pytest.raises(FewshotError, match="7 does not divide"):
        method.adapt(vit, easy(vit), Run())


@pytest.mark.parametrize("setting", [{"size": 32}, {"dropout": 0.1}])
def test_settings_of_kronecker_products_are_refused_for_lora(setting):
    with pytest.raises(ValueError, match="would do nothing"):
        MoA(form="lora", **setting)
