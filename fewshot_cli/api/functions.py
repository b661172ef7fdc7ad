"""The functions of the interface, under the names of the commands and their options."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from fewshot_cli.api.arguments import AnyPath, Settings, changes_of, choice_of, context_of, recipe_of
from fewshot_cli.api.classifier import Classifier
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.formats.kinds import kind_of_bank
from fewshot_cli.images.sources.dataset import Dataset, read_datasets
from fewshot_cli.images.sources.in_memory import Labelled, Picture, labelled_pictures
from fewshot_cli.jobs.benchmark.protocols import protocols
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, answered_again
from fewshot_cli.jobs.benchmark.run import compare as compare_job
from fewshot_cli.jobs.classify.adapt import AdaptSettings, Preparation
from fewshot_cli.jobs.classify.adapt import adapt as adapt_job
from fewshot_cli.jobs.classify.choose import adapt_by_choice
from fewshot_cli.jobs.initialisation import Starts
from fewshot_cli.jobs.interop.export import Format
from fewshot_cli.jobs.meta.results import MetaTuningData, Output
from fewshot_cli.jobs.meta.tune import meta_tune as meta_tune_job
from fewshot_cli.jobs.models.classifiers import load_model, loaded_on
from fewshot_cli.jobs.recipes import check_reads_names
from fewshot_cli.meta_recipes import load_meta_recipe
from fewshot_cli.recipe_files import AUTO
from fewshot_cli.recipes import folds_asked, parse_recipe
from fewshot_cli.results import (
    ComparisonResult,
    EvalResult,
    ExportResult,
    MetaTuneResult,
    PredictResult,
)


def adapt(
    images: Labelled,
    *,
    recipe: AnyPath | None = None,
    bank: AnyPath | None = None,
    density: float | None = None,
    backbone: str | None = None,
    weights: AnyPath | None = None,
    image_size: int | None = None,
    set: Settings | None = None,
    budget: float | None = None,
    folds: int | None = None,
    values: Values = "float16",
    keep_support: bool = False,
    device: str = "auto",
    seed: int = 0,
    offline: bool = False,
    no_cache: bool = False,
) -> Classifier:
    """A classifier learned from labelled images; as `fewshot adapt` does, with its options.

    `images` is the path of a folder with one sub-folder per class, a mapping from each class to its pictures, or
    (pictures, labels); pictures are paths, Pillow's, or arrays `(height, width, 3)` of uint8. Without a `recipe` one is
    chosen for them, in `budget` seconds. Nothing is written but what the cache remembers. Raises FewshotError for bad
    input, before anything slow is done.

    >>> import fewshot_cli as fewshot
    >>> from fewshot_cli.images.drawing import draw
    >>> some = {label: [draw(label, seed=i, size=64) for i in range(4)] for label in ("cat", "house", "star")}
    >>> classifier = fewshot.adapt(some, recipe="ridge", image_size=64, offline=True)
    >>> classifier.classes
    ('cat', 'house', 'star')
    >>> classifier.predict(draw("house", seed=9, size=64))[0].label
    'house'
    """
    auto = recipe in (None, AUTO) and bank is None
    choice = choice_of(backbone, image_size, budget, seed, set, folds, density) if auto else None
    choice = choice and replace(choice, values=values, keep_support=keep_support)
    if not auto and budget is not None:
        raise FewshotError("budget would do nothing: the recipe is given.", "Leave one of them out.")
    how = None
    if not auto:
        what = recipe_of(recipe, set, backbone, image_size, bank, density)
        check_reads_names(what)
        kind = kind_of_bank(Path(what.bank)) if what.bank else None
        how = AdaptSettings(what, seed, folds_asked(what, folds, kind), values, keep_support)
    labelled = labelled_pictures(images)
    context = context_of(weights, device, offline, no_cache)
    starts = Starts(context.source, context.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classifier.fewshot"
        if choice is not None:
            result = adapt_by_choice(labelled, path, choice, context, starts)
        elif how is not None:
            result = adapt_job(labelled, path, how, context, Preparation(starts))
        loaded = loaded_on(starts.of(parse_recipe(result.recipe, "chosen")).base, path)
        return Classifier(path.read_bytes(), loaded, context, result=replace(result, file=None))


def load(
    file: AnyPath,
    *,
    weights: AnyPath | None = None,
    device: str = "auto",
    offline: bool = False,
    no_cache: bool = False,
) -> Classifier:
    """The classifier in a delta file, on its backbone.

    Raises FewshotError for a damaged file, and for a backbone that can't be had or is another than it was made for.
    """
    context = context_of(weights, device, offline, no_cache)
    path = Path(file)
    loaded = load_model(path, context.source, context.device)
    return Classifier(path.read_bytes(), loaded, context, file=str(path))


def predict(
    file: AnyPath | Classifier,
    images: Picture | Iterable[Picture],
    *,
    weights: AnyPath | None = None,
    device: str = "auto",
    offline: bool = False,
    no_cache: bool = False,
) -> PredictResult:
    """A row for every image: the likeliest class and its probability, or why there is none; as `fewshot predict` does.

    `images` is the path of a file or folder, a picture of Pillow's, an array `(height, width, 3)` of uint8, or several
    of these. For more than one call, `load` the file once.
    """
    return _classifier(file, weights, device, offline, no_cache).predict(images)


def evaluate(
    file: AnyPath | Classifier,
    images: Labelled,
    *,
    weights: AnyPath | None = None,
    device: str = "auto",
    offline: bool = False,
    no_cache: bool = False,
) -> EvalResult:
    """How good a classifier is on labelled images; as `fewshot eval FILE FOLDER` does, but it leaves no record.

    `images` is what `adapt` takes. Raises FewshotError where they have a class that the classifier does not know.
    """
    return _classifier(file, weights, device, offline, no_cache).evaluate(images)


def export(
    file: AnyPath | Classifier,
    output: AnyPath,
    format: Format,
    *,
    images: AnyPath | None = None,
    weights: AnyPath | None = None,
    device: str = "auto",
    offline: bool = False,
) -> ExportResult:
    """Writes a classifier as "safetensors", "onnx" or "peft", proved to answer alike; as `fewshot export` does.

    It is proved on the images in the folder `images`, else on those it was learned from, else on drawn ones.
    """
    return _classifier(file, weights, device, offline, True).export(output, format, images)


def compare(
    recipes: AnyPath | Sequence[AnyPath],
    data: AnyPath | Sequence[AnyPath],
    *,
    protocol: str = "fixed",
    episodes: int = 600,
    way: int | str | None = None,
    shots: int | str | Sequence[int] | None = None,
    queries: int | str | None = None,
    target: Sequence[str] = (),
    split: str | None = None,
    output: AnyPath | None = None,
    write_splits: AnyPath | None = None,
    bank: AnyPath | None = None,
    density: float | None = None,
    backbone: str | None = None,
    weights: AnyPath | None = None,
    image_size: int | None = None,
    set: Settings | None = None,
    device: str = "auto",
    seed: int = 0,
    offline: bool = False,
    no_cache: bool = False,
) -> ComparisonResult:
    """Recipes compared over the same few-shot episodes; as `fewshot eval RECIPE... --data DIR...` does.

    Settings whose paths begin with "protocol." are the protocol's. With `output` the result of every episode is written
    there, and a run that was interrupted goes on; without, no result is. Into the folder `write_splits` each episode
    goes as a fixed split, as CoOp's JSON and as JSON lines. Each recipe begins from the `bank`, if one is given.

    >>> import fewshot_cli as fewshot
    >>> from fewshot_cli.images.drawing import write_folder
    >>> here = Path(tempfile.mkdtemp())
    >>> write_folder(here / "set", ("cat", "house", "star"), 3, seed=0, size=64)
    >>> asked = {"way": 3, "shots": 1, "queries": 2, "episodes": 1, "image_size": 64, "offline": True}
    >>> found = fewshot.compare("protonet", here / "set", write_splits=here, **asked)
    >>> sorted(path.name for path in here.glob("set-*"))
    ['set-shots1-seed0-episode0.json', 'set-shots1-seed0-episode0.jsonl']
    """
    changes = dict(set or {})
    of_protocol = {key: changes.pop(key) for key in list(changes) if key.startswith(PROTOCOL)}
    names = [str(name) for name in _several(recipes)]
    asked = {name: recipe_of(name, changes, backbone, image_size, bank, density) for name in names}
    facts: dict[str, Any] = {"name": protocol, "way": way, "queries": queries}
    facts["shots"] = list(shots) if isinstance(shots, Sequence) and not isinstance(shots, str) else shots
    facts = {key: value for key, value in facts.items() if value is not None}
    facts |= {key.removeprefix(PROTOCOL): value for key, value in of_protocol.items()}
    paths = [Path(path) for path in _several(data)]
    question = ComparisonSettings(
        _datasets(paths, split), protocols(facts), episodes, seed, tuple(target), tuple(map(str, paths)), split
    )
    context = context_of(weights, device, offline, no_cache)
    splits = None if write_splits is None else Path(write_splits)
    if output is None:
        return answered_again(asked, question, context, splits)
    return compare_job(asked, question, context, Path(output), splits)[0]


def meta_tune(
    recipe: AnyPath,
    data: AnyPath | Sequence[AnyPath],
    output: AnyPath,
    *,
    split: str | None = None,
    validate: AnyPath | Sequence[AnyPath] = (),
    validation_split: str | None = None,
    resume: bool = False,
    values: Literal["float16", "float32"] = "float16",
    backbone: str | None = None,
    weights: AnyPath | None = None,
    image_size: int | None = None,
    set: Settings | None = None,
    device: str = "auto",
    seed: int = 0,
    offline: bool = False,
    no_cache: bool = False,
) -> MetaTuneResult:
    """Meta-tunes over the episodes of many data sets and writes a bank to adapt from; as `fewshot meta-tune` does.

    Ctrl-C stops it between two steps, and `resume` goes on from there.
    """
    what = load_meta_recipe(str(recipe), changes_of(set), backbone=backbone, image_size=image_size)
    practised, validated = ([Path(path) for path in _several(paths)] for paths in (data, validate))
    material = MetaTuningData(
        _datasets(practised, split),
        _datasets(validated, None) + (_datasets(practised, validation_split) if validation_split else ()),
        tuple(map(str, practised)),
        split,
        tuple(map(str, validated)),
        validation_split,
    )
    context = context_of(weights, device, offline, no_cache)
    return meta_tune_job(what, material, Output(Path(output), values, None, resume), seed, context)


PROTOCOL = "protocol."


def _classifier(
    file: AnyPath | Classifier, weights: AnyPath | None, device: str, offline: bool, no_cache: bool
) -> Classifier:
    """The classifier itself, or the one in the file. Raises FewshotError where settings of loading would do nothing."""
    if not isinstance(file, Classifier):
        return load(file, weights=weights, device=device, offline=offline, no_cache=no_cache)
    if weights is not None or device != "auto":
        raise FewshotError(
            "weights and device are of loading a file, and this classifier is loaded.", "Give them to adapt or load."
        )
    return file


def _several(given: AnyPath | Sequence[AnyPath]) -> Sequence[AnyPath]:
    return [given] if isinstance(given, str | PathLike) else given


def _datasets(paths: Sequence[Path], split: str | None) -> tuple[Dataset, ...]:
    return tuple(dataset for path in paths for dataset in read_datasets(path, split))
