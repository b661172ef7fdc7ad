"""Every setting that a recipe may have does something: another value changes the result, or is refused with a reason.

The settings are found by walking the models, so that a new one without an entry below fails.
"""

import inspect
import json
import types
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError

from fewshot_cli.engine.adaptation import Run
from fewshot_cli.engine.data.domain_sampling import AnySampler
from fewshot_cli.engine.data.episode import Pool
from fewshot_cli.engine.data.episode_samplers import AnyProtocol
from fewshot_cli.engine.meta.domain import Domain
from fewshot_cli.engine.meta.loop import Practice
from fewshot_cli.engine.meta.task_source import TaskSource, kept_apart
from fewshot_cli.engine.meta.validation import best, is_out_of_patience, validated
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.settings import Settings
from fewshot_cli.jobs.meta.tasks import precision
from fewshot_cli.meta_recipes import MetaRecipe
from fewshot_cli.methods import HEADS, META_METHODS, MOVES, class_named
from fewshot_cli.recipes import Recipe

CPU = torch.device("cpu")
VALUES: dict[str, Any] = {
    # heads
    "ProtoNet.distance": "euclidean",
    "Ridge.strength": 3.0,
    "Ridge.scale": 3.0,
    "CosineRidge.strength": 3.0,
    "CosineRidge.scale": 3.0,
    "Logistic.inverse_strength": 1.0,
    "LDA.covariance": "within",
    "LDA.ridge": 3.0,
    "TIM.ce": 1.0,
    "TIM.marginal": 0.1,
    "TIM.conditional": 1.0,
    "TIM.scale": 5.0,
    "TIM.lr": 1e-2,
    "TIM.steps": 20,
    "ZeroShot.scale": 5.0,
    "GDA.alpha": 3.0,
    "GDA.scale": 5.0,
    "LPPlusPlus.steps": 3,
    "LPPlusPlus.accumulate": True,
    "TaskRes.share": 1.0,
    "TaskRes.lr": 1e-2,
    "TaskRes.weight_decay": 0.5,
    "TaskRes.steps": 3,
    "TaskRes.scale": 5.0,
    "CrossModal.lr": 1e-2,
    "CrossModal.weight_decay": 0.5,
    "CrossModal.steps": 60,
    "CrossModal.share": 0.5,
    "CrossModal.scale": 5.0,
    # what moves the backbone
    "TipAdapter.alpha": 20.0,
    "TipAdapter.beta": 20.0,
    "TipAdapter.views": 2,
    "TipAdapter.scale": 5.0,
    "TipAdapterF.lr": 0.1,
    "TipAdapterF.epochs": 2,
    "ProLIP.lr": 1e-2,
    "ProLIP.steps": 3,
    "ProLIP.views": 3,
    "ProLIP.pull": 10.0,
    "ProLIP.scale": 5.0,
    "CLIPAdapter.share": 0.9,
    "CLIPAdapter.reduction": 2,
    "CLIPAdapter.lr": 0.1,
    "CLIPAdapter.steps": 3,
    "CLIPAdapter.scale": 5.0,
    "CLAP.penalty": 100.0,
    "CLAP.lr": 1.0,
    "CLAP.epochs": 3,
    "CLAP.views": 3,
    "CLAP.scale": 5.0,
    "CoOp.context": 2,
    "CoOp.position": "front",
    "CoOp.per_class": True,
    "CoOp.lr": 0.1,
    "CoOp.weight_decay": 0.5,
    "CoOp.steps": 3,
    "CoOp.scale": 5.0,
    "CoPrompt.context": "drawings of the",
    "CoPrompt.prompts": 1,
    "CoPrompt.depth": 1,
    "CoPrompt.image_share": 0.5,
    "CoPrompt.text_share": 0.5,
    "CoPrompt.reduction": 2,
    "CoPrompt.consistency": 8.0,
    "CoPrompt.criterion": "mse",
    "CoPrompt.augment": 0.0,
    "CoPrompt.lr": 1e-2,
    "CoPrompt.weight_decay": 0.5,
    "CoPrompt.epochs": 3,
    "CoPrompt.batch": 3,
    "CoPrompt.scale": 5.0,
    "TwoStage.targets": "norm1",
    "TwoStage.first": 0.4,
    "LoRA.up_blocks": 2,
    "Finetune.targets": "norm",
    "LoRA.targets": "fc1",
    "LoRA.parts": ["k"],
    "LoRA.rank": 3,
    "LoRA.alpha": 2.0,
    "LoRA.scaling": "alpha/sqrt(rank)",
    "SAFT.density": 0.01,
    "SAFT.targets": "norm",
    "SHiRA.mask": "random",
    "SHiRA.density": 0.05,
    "SHiRA.targets": "fc1",
    "KAdaptation.blocks": "all",
    "KAdaptation.rank": 3,
    "KAdaptation.size": 32,
    "MoA.form": "lora",
    "MoA.blocks": "all",
    "MoA.ranks": [1, 2],
    "MoA.size": 32,
    "MoA.dropout": 0.0,
    "MoA.router": 16,
    "MoA.balance": 1.0,
    "TSA.targets": "fc1",
    "TSA.form": "vector",
    "TSA.map": False,
    "TSA.map_lr": 0.5,
    "Tuning.head": "prototypes",
    "Tuning.head_lr": 0.5,
    "Tuning.scale": 5.0,
    "Tuning.augment": 0.0,
    "Tuning.loss_classes": "batch",
    "Optim.name": "sgd",
    "Optim.lr": 3e-3,
    "Optim.steps": 2,
    "Optim.epochs": 2.0,
    "Optim.steps_per_shot": 2,
    "Optim.batch": 4,
    "Optim.weight_decay": 0.3,
    "Optim.momentum": 0.5,
    "Optim.schedule": "cosine",
    # meta-tuning
    "SMATSettings.experts": 3,
    "SMATSettings.sparsity": 0.5,
    "SMATSettings.inner_lr": 0.1,
    "SMATSettings.kd": 0.5,
    "SMATSettings.teacher_lr": 0.5,
    "SMATSettings.kd_temperature": 1.0,
    "SMATSettings.kd_direction": "teacher_student",
    "SMATSettings.l2": 0.5,
    "SMATSettings.scale": 5.0,
    "SMATSettings.pool": "first",
    "SMATSettings.binary": False,
    "SMATSettings.evaluation_beta": 1.0,
    "SMAT.masks": "magnitude",
    "SMAT.delta_lr": 3e-3,
    "SMAT.momentum": 0.5,
    "SMAT.weight_decay": 0.3,
    "SMAT.router_lr": 1e-2,
    "SMAT.router_weight_decay": 0.5,
    "SMAT.router_clip": 1e-3,
    "SMAT.trainable_keys": False,
    "SMAT.annealing": 5,
    "LearnedMasks.lr": 3.0,
    "LearnedMasks.clip": 1e-6,
    "LearnedMasks.multiplier_lr": 0.5,
    "DenseMetaTuning.lr": 1e-3,
    "DenseMetaTuning.momentum": 0.5,
    "DenseMetaTuning.weight_decay": 0.3,
    "DenseMetaTuning.clip": 1e-3,
    "FOMAML.inner": {"steps": 2},
    "InnerLoop.steps": 3,
    "InnerLoop.lr": 0.1,
    "InnerLoop.head_lr": 100.0,
    "MAMF.way": 2,
    "MAMF.tasks": 2,
    "Training.protocol": {"name": "fixed", "way": 2, "shots": 1, "queries": 1},
    "Training.sampler": {"name": "ucb1"},
    "Training.target": "night",
    "Training.epochs": 3,
    "Training.episodes": 3,
    "Training.batch": 2,
    "Training.schedule": {"name": "constant", "warmup": 0.0},
    "Training.views": {},
    "Training.precision": "bfloat16",
    "Schedule.name": "pmf",
    "Schedule.warmup": 0.0,
    "Schedule.epochs": 7,
    "ViewSettings.scale": [0.5, 0.6],
    "ViewSettings.ratio": [1.0, 1.1],
    "ViewSettings.jitter": 0.1,
    "Validation.episodes": 3,
    "Validation.share": 0.4,
    "Validation.select": "last",
    "Validation.patience": 1,
    "Exp3.reward": "magnitude",
    "Exp3.turns": "release",
    "Exp3.softmax": True,
    "Ucb1.reward": "magnitude",
    "Ucb1.smoothing": 0.9,
    "Ucb1.softmax": True,
    # protocols
    "Fixed.way": 3,
    "Fixed.shots": 2,
    "Fixed.queries": 4,
    "MetaDataset.min_way": 3,
    "MetaDataset.max_way": 6,
    "MetaDataset.max_node": 6,
    "MetaDataset.max_queries": 2,
    "MetaDataset.max_support": 60,
    "MetaDataset.max_per_class": 1,
    "MetaDataset.log_weights": [-2.0, 2.0],
    "MetaDataset.hierarchy": False,
    "Across.way": 3,
    "Across.shots": 2,
    "Across.queries": 4,
    "Across.in_distribution": True,
    "LeaveOneOut.way": 3,
    "LeaveOneOut.shots": 2,
    "LeaveOneOut.queries": 4,
    "Incremental.base_way": 3,
    "Incremental.base_shots": 2,
    "Incremental.sessions": 2,
    "Incremental.way": 1,
    "Incremental.shots": 2,
    "Incremental.queries": 4,
    "BaseToNew.shots": 2,
    "BaseToNew.queries": 4,
}
"""Another valid value of each setting, by the class that has it."""

ELSEWHERE = {
    "RecipeForBackbone.backbone": "tests/jobs/share/test_compose.py",
    "RecipeForBackbone.image_size": "tests/jobs/share/test_compose.py",
    "Recipe.bank": "tests/jobs/test_initialisation.py",
    "Recipe.density": "tests/jobs/test_initialisation.py",
    "Recipe.template": "tests/jobs/classify/test_from_names.py",
    "MetaRecipe.template": "tests/jobs/meta/test_class_names.py",
    "MAMF.heads": "tests/engine/meta/test_mamf_clip.py",
    "Training.fast_path": "tests/jobs/meta/test_tune.py",
    "Validation.split_by": "tests/engine/meta/test_domain.py",
}
"""Settings of whole jobs and of two towers, and the tests that have them change a result."""
SECTIONS = {
    "Recipe.method",
    "Recipe.head",
    "MetaRecipe.method",
    "MetaRecipe.training",
    "Training.validation",
}
TUNED = ("Finetune", "LoRA", "SAFT", "SHiRA", "KAdaptation", "MoA", "TSA", "TwoStage", "MAMF")
SECTIONS |= {f"{name}.tuning" for name in TUNED} | {"Tuning.optim"}
"""What holds other settings and is none itself."""

BASES: dict[str, dict[str, Any]] = {
    "Optim.momentum": {"method.tuning.optim.name": "sgd", "method.tuning.optim.lr": 0.05},
    "SMATSettings.teacher_lr": {"method.kd": 0.5},
    "SMATSettings.evaluation_beta": {"method.binary": False},
    "Training.target": {"training.sampler": {"name": "ucb1"}},
    "Tuning.head": {"method.tuning.optim.batch": None},
    "Exp3": {"training.sampler": {"name": "exp3"}, "training.batch": 2},
    "Ucb1": {"training.sampler": {"name": "ucb1"}, "training.batch": 2},
    "TIM": {"method.steps": 50},
    "ViewSettings": {"training.views": {}},
    "MetaDataset": {"method.min_way": 4, "method.max_way": 5, "method.max_support": 30, "method.max_per_class": 8},
    "BaseToNew": {"method.shots": 5},
    "Incremental": {"method.base_way": 4, "method.way": 2, "method.sessions": 1},
}
"""What a setting, or all of a class, needs beside it to do something; without it the value must be refused, or change
the result as well."""
QUICK = {"lr": 1e-2, "steps": 3, "epochs": 0, "batch": 2}
"""A batch lacks one of three classes."""


# --- walking the models ----------------------------------------------------------------------------------------------


def parts_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models of settings in a field's type: itself, or the members of a union."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType) or hasattr(annotation, "__metadata__"):
        for part in get_args(annotation):
            yield from parts_of(part)


def owner(model: type[BaseModel], name: str) -> str:
    """The class that a setting is of: the one highest up that has it, so that what is inherited has one entry."""
    owners = [cls for cls in model.__mro__ if name in getattr(cls, "model_fields", {})]
    return f"{owners[-1].__name__}.{name}"


def settings_of(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each setting of a model and of its sections: its entry, and its path."""
    for name, field in model.model_fields.items():
        if name == "name" and len(getattr(field.annotation, "__args__", ())) == 1:
            continue  # what tells a union's members apart
        yield owner(model, name), (*at, name)
        if model not in (Recipe, MetaRecipe):
            for part in parts_of(field.annotation):
                yield from settings_of(part, (*at, name))


METHODS = {name: class_named(name, HEADS | MOVES) for name in HEADS | MOVES}
META = {name: class_named(name, META_METHODS) for name in META_METHODS}
PROTOCOLS = {cls.model_fields["name"].default: cls for cls in parts_of(AnyProtocol)}
SAMPLERS = {cls.model_fields["name"].default: cls for cls in parts_of(AnySampler)}
TRAINING = MetaRecipe.model_fields["training"].annotation


def cases(models: dict[str, type[BaseModel]]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(name, entry, path) for name, cls in models.items() for entry, path in settings_of(cls)]


def test_every_setting_has_an_entry():
    found = {entry for kinds in (METHODS, META, PROTOCOLS, SAMPLERS) for _, entry, _ in cases(kinds)}
    found |= {entry for cls in (TRAINING, Recipe, MetaRecipe) for entry, _ in settings_of(cls)}
    assert len(found) > 100
    assert found - VALUES.keys() - ELSEWHERE.keys() - SECTIONS == set(), "give these settings an entry"
    assert VALUES.keys() | ELSEWHERE.keys() <= found, "no such settings any more"


def changed(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The content with the values at these dotted paths."""
    found = json.loads(json.dumps(content))
    for path, value in changes.items():
        *sections, last = path.split(".")
        section = found
        for name in sections:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    return found


def held(outcome_of: Callable[[dict[str, Any]], Any], content: dict[str, Any], entry: str, path: str) -> None:
    """Sees a changed result; or a refusal, where the setting lacks what it needs."""
    for_class = BASES.get(entry.partition(".")[0], {})
    for needed in [{}, BASES[entry]] if entry in BASES else [for_class]:
        before = changed(content, needed)
        expected = outcome_of(before)
        try:
            found = outcome_of(changed(before, {path: VALUES[entry]}))
        except ValidationError as error:
            assert "would do nothing" in str(error)
            assert entry in BASES and not needed, "refused, although there is all that it needs"
        else:
            assert found != expected, f"{path} = {VALUES[entry]} changes nothing"


# --- methods that adapt ----------------------------------------------------------------------------------------------


def tensors_in(found: Any) -> Iterator[bytes]:
    """The values of all tensors in what a method yields."""
    if isinstance(found, torch.Tensor):
        values = found.detach().contiguous().reshape(-1)
        yield repr(tuple(found.shape)).encode() + values.view(torch.uint8).numpy().tobytes()
    elif is_dataclass(found):
        yield from (value for field in fields(found) for value in tensors_in(getattr(found, field.name)))
    elif isinstance(found, dict):
        yield from (value for name in found for value in (name.encode(), *tensors_in(found[name])))


def quick(model: type[BaseModel]) -> dict[str, Any]:
    """The method's settings, and a few steps of training where it trains."""
    tuning = {"tuning": {"augment": 0.9, "optim": QUICK}} if "tuning" in model.model_fields else {}
    return {"name": model.model_fields["name"].default} | tuning


REFUSED = [("2sfs", "Tuning.head")]
"""What a method settles itself."""


@pytest.mark.parametrize(("method", "entry"), REFUSED)
def test_what_a_method_settles_is_refused(method, entry):
    with pytest.raises(ValidationError, match="would do nothing"):
        METHODS[method].model_validate({"name": method, "tuning": {entry.partition(".")[2]: VALUES[entry]}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "entry", "path"),
    [case for case in cases(METHODS) if case[1] not in SECTIONS and case[:2] not in REFUSED],
)
def test_settings_of_methods(method, entry, path, vit, clip, easy, pictures):
    vit = clip if METHODS[method]().needs_text else vit
    support, (queries, _) = easy(vit), pictures((2, 2, 2), seed=2)

    def outcome(content: dict[str, Any]) -> list[bytes]:
        learner = METHODS[method].model_validate(content["method"])
        adapted = learner.adapt(vit, support, Run(seed=3))
        return [*tensors_in(adapted), *tensors_in(Model(vit, adapted).logits(queries))]

    held(outcome, {"method": quick(METHODS[method])}, entry, ".".join(("method", *path)))


@pytest.mark.parametrize("method", [name for name, cls in METHODS.items() if "tuning" in cls.model_fields])
def test_a_learned_scale(method, clip, easy):
    """It ends elsewhere than the towers' own scale, which it starts at; 2SFS has a head that it can't be of."""
    support = easy(clip)

    def outcome(scale: float | str) -> list[bytes]:
        tuning = {"scale": scale, "optim": QUICK} | ({} if method == "2sfs" else {"head": "text"})
        learner = METHODS[method].model_validate({"name": method, "tuning": tuning})
        return list(tensors_in(learner.adapt(clip, support, Run(seed=3))))

    if method == "2sfs":
        with pytest.raises(ValidationError, match="only `head: text`"):
            outcome("learned")
    else:
        assert outcome("learned") != outcome(clip.scale)


# --- meta-tuning -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(vit, pictures) -> dict[str, Domain]:
    """Two domains of three classes, eight pictures each."""
    found = {}
    for seed, name in enumerate(("day", "night")):
        images, labels = pictures((8, 8, 8), seed)
        pool = Pool(name, ("a", "b", "c"), labels.numpy(), np.zeros(len(labels), dtype=np.int64), (name,))
        found[name] = Domain.whole(pool, vit.frozen_features(images), images)
    return found


def practised(content: dict[str, Any], vit: Any, whole: dict[str, Domain]) -> Any:
    """What a run of meta-tuning comes to: its bank, and what it saw on the way."""
    recipe = MetaRecipe.model_validate(content)
    method, training = recipe.method, recipe.training
    domains, validation = kept_apart(list(whole.values()), training, 0)
    source = TaskSource(vit, domains, validation, precision=precision(recipe, CPU, pytest.fail))
    practice = Practice.start(method, training, source)
    while practice.step < min(practice.ends[-1], 4):
        practice.advance()
    seen = [(record["domain"], record["loss"]) for record in practice.read()]
    asked: list[Any] = []
    learner = method.learner(practice.bank, source.passes, practice.tasks)
    accuracies = validated(learner, source, training, lambda done, of: asked.append(of))
    kept = method.saved_bank(practice.bank, vit, practice.tasks)
    known = (0.5, 0.9, 0.7)
    chosen = best(known, training.validation), is_out_of_patience(known, training.validation)
    state = practice.trainer.sampler
    sampler = state and (state.model_dump(exclude={"sampler"}), state.probabilities)
    sizes = [len(domain.rows) for domain in source.domains]
    facts = dict(kept.settings), seen, asked, accuracies, chosen, sampler, practice.ends, sizes
    return list(tensors_in(kept)), facts


SHORT = {
    "protocol": {"name": "fixed", "way": 3, "shots": 1, "queries": 1},
    "epochs": 2,
    "episodes": 2,
    "schedule": {"name": "cosine", "warmup": 1.0},
    "validation": {"episodes": 1, "share": 0.25},
}
META_BASES: dict[str, dict[str, Any]] = {
    "smat": {"delta_lr": 1e-2, "experts": 2, "masks": {"lr": 1.0, "multiplier_lr": 0.1}},
    "dense": {"lr": 1e-2},
    "fomaml": {"lr": 1e-2},
    "mamf": {"way": 3, "tuning": {"optim": QUICK}},
}


def recipe_of(method: str) -> dict[str, Any]:
    training = {key: SHORT[key] for key in ("protocol", "epochs", "validation")} if method == "mamf" else SHORT
    return {"method": {"name": method} | META_BASES[method], "training": training}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "entry", "path"), [case for case in cases(META) if case[1] not in SECTIONS | ELSEWHERE.keys()]
)
def test_settings_of_meta_methods(method, entry, path, vit, whole):
    held(lambda content: practised(content, vit, whole), recipe_of(method), entry, ".".join(("method", *path)))


OF_PROTOCOLS = {cls.__name__ for cls in PROTOCOLS.values()}
TRAINED = [
    (entry, path)
    for entry, path in settings_of(TRAINING)
    if entry not in SECTIONS | ELSEWHERE.keys() and entry.partition(".")[0] not in OF_PROTOCOLS
]


@pytest.mark.parametrize(("entry", "path"), TRAINED)
def test_settings_of_training(entry, path, vit, whole):
    held(lambda content: practised(content, vit, whole), recipe_of("dense"), entry, ".".join(("training", *path)))


@pytest.mark.parametrize(("entry", "path"), [case for case in TRAINED if "views" in case[1]])
def test_views_of_mamf(entry, path, vit, whole):
    held(lambda content: practised(content, vit, whole), recipe_of("mamf"), entry, ".".join(("training", *path)))


IDLE = [
    *(("mamf", {}, f"training.{name}") for name in ("sampler", "episodes", "batch", "schedule", "precision")),
    *((method, {}, "training.fast_path") for method in ("mamf", "dense", "fomaml")),
    *(("smat", {"method.kd": 0}, f"method.{name}") for name in ("teacher_lr", "kd_temperature", "kd_direction")),
    *(("smat", {"method.masks": "random"}, f"method.{name}") for name in ("mask_lr", "mask_clip", "multiplier_lr")),
    ("smat", {"method.masks": "magnitude"}, "method.binary"),
    ("smat", {"method.binary": True}, "method.evaluation_beta"),
    ("dense", {"training.sampler": {"name": "uniform"}}, "training.target"),
    ("dense", {"training.validation": {"select": "last"}}, "training.validation.patience"),
    *(
        ("dense", {"training.validation": {"episodes": 0}}, f"training.validation.{n}")
        for n in ("share", "split_by", "select")
    ),
    ("dense", {"training.schedule": {"name": "constant"}}, "training.schedule.epochs"),
    *(
        ("mamf", beside, "method.tuning.loss_classes")
        for beside in (
            {"method.tuning.head": "prototypes", "method.tuning.optim.batch": None},
            {"method.tuning.optim.batch": None},
        )
    ),
    *(("fomaml", {"method.inner": {"steps": 0}}, f"method.inner.{name}") for name in ("lr", "head_lr")),
]
"""Of meta-tuning: what would do nothing beside which settings."""
FORMER = {"mask_lr": 2.0, "mask_clip": 2.0, "multiplier_lr": 2.0}
"""What learned masks' settings were called beside `masks`."""
IN_WORDS = {"fast_path": "off", "split_by": "image"}
"""Of settings that are tried elsewhere."""


@pytest.mark.parametrize(("method", "beside", "path"), IDLE)
def test_what_would_do_nothing_is_refused(method, beside, path):
    name = path.rpartition(".")[2]
    of = {
        "inner": "InnerLoop",
        "validation": "Validation",
        "schedule": "Schedule",
        "training": "Training",
        "tuning": "Tuning",
    }
    model = of.get(path.split(".")[-2], "SMATSettings")
    value = (FORMER | IN_WORDS).get(name, VALUES.get(f"{model}.{name}"))
    before = changed(recipe_of(method), beside)
    MetaRecipe.model_validate(before)
    with pytest.raises(ValidationError, match="would do nothing"):
        MetaRecipe.model_validate(changed(before, {path: value}))


# --- protocols -------------------------------------------------------------------------------------------------------


def pool_of(domains: int, has_nodes: bool) -> Pool:
    """Twelve classes of 10 to 21 images of each domain, in nodes of three, five and eight classes."""
    labels = np.concatenate([np.repeat(np.arange(12), np.arange(10, 22))] * domains).astype(np.int64)
    of = np.repeat(np.arange(domains), len(labels) // domains).astype(np.int64)
    nodes = {"three": (0, 5, 9), "few": (0, 1, 2, 3, 4), "many": tuple(range(4, 12))} if has_nodes else {}
    return Pool("pool", tuple(f"c{i}" for i in range(12)), labels, of, tuple(f"d{i}" for i in range(domains)), nodes)


@pytest.mark.parametrize(("protocol", "entry", "path"), cases(PROTOCOLS))
def test_settings_of_protocols(protocol, entry, path):
    pool = pool_of(2 if protocol in ("across", "leave-one-out") else 1, protocol == "meta-dataset")

    def outcome(content: dict[str, Any]) -> list[list[int]]:
        drawn: Settings = PROTOCOLS[protocol].model_validate(content["method"])
        episodes = [drawn.episode(pool, 0, index) for index in range(10)]
        return [
            values.tolist()
            for episode in episodes
            for values in (episode.classes, *(part for s in episode.sessions for part in (s.support, s.query)))
        ]

    held(outcome, {"method": {"name": protocol}}, entry, ".".join(("method", *path)))
