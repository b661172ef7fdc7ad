"""The sparse promise: nothing outside the mask moves, not by one bit, whatever the optimiser."""

import math

import pytest
import torch

from fewshot_cli.engine.adaptation import Run
from fewshot_cli.engine.delta.change import Sparse, density, merge
from fewshot_cli.engine.params import total_size
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.saft import SAFT
from fewshot_cli.methods.shira import SHiRA
from fewshot_cli.methods.sparse import task_gradient

OPTIMISERS = {
    "momentum": Optim(name="sgd", lr=0.1, momentum=0.9, steps=3, batch=5),
    "adam": Optim(name="adam", lr=1e-2, steps=3, batch=5),
    "adam-decay": Optim(name="adam", lr=1e-2, steps=3, batch=5, weight_decay=0.5),
    "adamw-decay": Optim(name="adamw", lr=1e-2, steps=3, batch=5, weight_decay=0.5),
}
RULES = ("magnitude", "gradient", "snip", "random", "rows")
BRIEF = Tuning(optim=Optim(steps=2, batch=None), augment=0)


def sparse_methods(tuning: Tuning):
    return {"saft": SAFT(density=0.01, tuning=tuning)} | {
        f"shira-{rule}": SHiRA(mask=rule, density=0.02, tuning=tuning) for rule in RULES
    }


@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("name", sparse_methods(Tuning()))
def test_only_chosen_values_move(name, optim, backbone, easy):
    adapted = sparse_methods(Tuning(optim=optim))[name].adapt(backbone, easy(backbone), Run())
    merged = merge(backbone.params, adapted.delta)
    moved = 0
    for parameter, base in backbone.params.items():
        change = adapted.delta.get(parameter)
        free = torch.ones(base.numel(), dtype=torch.bool)
        if change is not None:
            assert isinstance(change, Sparse)
            assert torch.equal(change.positions, change.positions.unique())  # rising, none twice
            free[change.positions] = False
        before, after = base.contiguous().flatten(), merged[parameter].contiguous().flatten()
        assert torch.equal(before[free], after[free])
        moved += int((before != after).sum())
    chosen = sum(change.nonzeros() for change in adapted.delta.values())
    # Some chosen values have no gradient, as the key's bias in attention and weights behind dead units.
    assert 0.5 * chosen < moved <= chosen


@pytest.mark.parametrize("share", [1e-9, 0.001, 0.1, 1.0])
def test_saft_takes_its_share_of_the_whole_network(share, backbone, easy):
    adapted = SAFT(density=share, tuning=BRIEF).adapt(backbone, easy(backbone), Run())
    size = total_size(backbone.params)
    assert sum(change.nonzeros() for change in adapted.delta.values()) == math.ceil(share * size)
    assert density(adapted.delta, size) == pytest.approx(max(share, 1 / size), abs=1 / size)


def test_saft_takes_the_largest_gradients_and_leaves_whole_parameters_out(vit, easy):
    support = easy(vit)
    method = SAFT(density=0.002, tuning=BRIEF)
    gradient = task_gradient(vit, support, vit.params, BRIEF)
    adapted = method.adapt(vit, support, Run())
    chosen = torch.cat([gradient[n].flatten()[c.positions].abs() for n, c in adapted.delta.items()])
    every = torch.cat([values.flatten().abs() for values in gradient.values()])
    assert torch.equal(chosen.sort().values, every.sort().values[-len(chosen) :])
    assert adapted.delta.keys() < vit.params.keys()


@pytest.mark.parametrize("rule", RULES)
def test_shira_takes_its_share_of_every_matrix(rule, backbone, easy):
    adapted = SHiRA(mask=rule, density=0.05, tuning=BRIEF).adapt(backbone, easy(backbone), Run())
    matrices = {n: w for n, w in backbone.params.items() if w.ndim >= 2 and n.endswith("weight")}
    assert adapted.delta.keys() == matrices.keys()
    for name, weight in matrices.items():
        count = adapted.delta[name].nonzeros()
        if rule == "rows":  # whole rows and at least the diagonal: never exactly the share
            assert count >= min(len(weight), weight[0].numel())
            assert count <= 0.1 * weight.numel() + weight[0].numel() + len(weight)
        else:
            assert count == math.ceil(0.05 * weight.numel())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [1e-9, 1.0])
def test_shiras_density_has_boundaries_that_work(rule, share, vit, easy):
    adapted = SHiRA(mask=rule, density=share, targets=r"mlp\.fc1\.weight$", tuning=BRIEF).adapt(vit, easy(vit), Run())
    for name, change in adapted.delta.items():
        smallest = 64 if rule == "rows" else 1  # the diagonal of a matrix with 64 columns
        assert change.nonzeros() == (vit.params[name].numel() if share == 1.0 else smallest)


@pytest.mark.parametrize("rule", ["magnitude", "gradient", "snip"])
def test_shiras_rules_take_the_largest_of_their_score(rule, vit, easy):
    support = easy(vit)
    adapted = SHiRA(mask=rule, density=0.03, tuning=BRIEF).adapt(vit, support, Run())
    base = {name: vit.params[name] for name in adapted.delta}
    gradient = task_gradient(vit, support, base, BRIEF)
    for name, change in adapted.delta.items():
        weight, slope = base[name].abs().flatten(), gradient[name].abs().flatten()
        score = {"magnitude": weight, "gradient": slope, "snip": weight * slope}[rule]
        assert score[change.positions].min() >= score.sort().values[-change.nonzeros()]


def test_random_positions_follow_the_seed_and_the_other_rules_do_not(vit, easy):
    support = easy(vit)
    same = {}
    for rule in RULES:
        first, second = (SHiRA(mask=rule, tuning=BRIEF).adapt(vit, support, Run(seed=seed)).delta for seed in (0, 1))
        same[rule] = all(torch.equal(first[name].positions, second[name].positions) for name in first)
    assert same == {rule: rule != "random" for rule in RULES}


@pytest.mark.parametrize("batch", [None, 12, 5, 1])
def test_the_task_gradient_is_that_of_the_mean_loss_in_any_batches(batch, backbone, easy):
    support = easy(backbone)
    tuning = Tuning(optim=Optim(batch=batch))
    gradient = task_gradient(backbone, support, backbone.params, tuning)
    weights = {name: values.clone().requires_grad_() for name, values in backbone.params.items()}
    features = backbone.features(backbone.normalised(support.images), weights)
    prototypes = torch.stack([support.features[support.labels == c].mean(0) for c in range(3)])
    cosines = torch.cosine_similarity(features[:, None], prototypes[None], dim=2)
    torch.nn.functional.cross_entropy(10 * cosines, support.labels).backward()
    largest = max(values.abs().max() for values in gradient.values())
    for name, values in weights.items():
        assert (gradient[name] - values.grad).abs().max() < 1e-3 * largest, name


def moved_names(backbone, adapted):
    merged = merge(backbone.params, adapted.delta)
    return {name for name, base in backbone.params.items() if not torch.equal(base, merged[name])}


PATTERNS = {
    ("bias$", "vit"): lambda name: name.endswith("bias"),
    (r"(norm|bn)\w*(\.\d+)?\.(weight|bias)$", "vit"): lambda name: "norm" in name,
    (r"(norm|bn)\w*(\.\d+)?\.(weight|bias)$", "conv"): lambda name: "bn" in name,
    (r"^blocks\.{last}\.", "vit"): lambda name: name.startswith("blocks.5."),
    (r"^blocks\.{last}\.", "conv"): lambda name: name.startswith("blocks.4."),
    (r"attn\.", "vit"): lambda name: ".attn." in name,
}


@pytest.mark.parametrize("optim", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize(("pattern", "family"), PATTERNS)
def test_finetune_moves_what_the_pattern_names_and_nothing_else(pattern, family, optim, easy, request):
    backbone = request.getfixturevalue(family)
    adapted = Finetune(targets=pattern, tuning=Tuning(optim=optim)).adapt(backbone, easy(backbone), Run())
    wanted = {name for name in backbone.params if PATTERNS[pattern, family](name)}
    assert wanted
    assert adapted.delta.keys() == wanted
    assert moved_names(backbone, adapted) == wanted


@pytest.mark.parametrize("method", [Finetune, SAFT, SHiRA])
def test_a_pattern_that_matches_nothing_is_an_error_with_examples(method, vit, easy):
    with pytest.raises(FewshotError, match="'no_such_layer'") as caught:
        method(targets="no_such_layer").adapt(vit, easy(vit), Run())
    assert "method.targets" in caught.value.hint
    assert any(name in caught.value.hint for name in vit.params)
