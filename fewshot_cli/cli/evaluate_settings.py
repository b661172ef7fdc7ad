"""What `fewshot eval RECIPE... --data DIR...` asks: recipes, protocols and data sets, as the options say.

Nothing here needs torch, but where a recipe begins from a bank.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewshot_cli.engine.data.episode_samplers import AnyProtocol
    from fewshot_cli.images.sources.dataset import Dataset
    from fewshot_cli.recipes import Recipe

PROTOCOL = "protocol."
"""What `--set` begins with where it changes the protocol, not the recipes."""


def recipes_asked(
    names: list[str],
    changes: list[str],
    chosen: dict[str, Any],
    banks: list[Path],
    density: float | None,
    frozen: bool,
    protocol: "AnyProtocol",
) -> "dict[str, Recipe]":
    """The recipes asked for, by name; a file's is its stem. With banks each is there from each, `frozen` also without.

    `chosen` are fields of every recipe that options set. Raises FewshotError, too, for one that can't answer as the
    protocol asks, or reads texts where the backbone does not; else what begins from a bank is looked at later.
    """
    from fewshot_cli.errors import FewshotError
    from fewshot_cli.jobs.benchmark.protocols import check_learner
    from fewshot_cli.jobs.recipes import check_reads_names
    from fewshot_cli.recipe_files import DEFAULT_RECIPE_FROM_BANK
    from fewshot_cli.recipes import load_recipe

    given: dict[str, str] = {}
    for name in names or [DEFAULT_RECIPE_FROM_BANK] * bool(banks):
        short = Path(name).stem if name.endswith((".yaml", ".yml")) else name
        if short in given:
            raise FewshotError(f"The recipe {short} is given twice.", "Give each once, and each file its own name.")
        given[short] = name
    if not banks:
        recipes = {short: load_recipe(name, changes, **chosen, density=density) for short, name in given.items()}
    else:
        from_banks = {
            f"{short} from {path.stem}": load_recipe(name, changes, **chosen, bank=str(path), density=density)
            for short, name in given.items()
            for path in banks
        }
        for recipe in from_banks.values():
            check_reads_names(recipe)
        from fewshot_cli.jobs.initialisation import agreeing, common_base

        base = common_base(banks)
        of_methods = [change for change in changes if change.partition("=")[0].strip() != "density"]
        of_base = {  # read as from a bank, so that a template may be of the base's text tower
            short: load_recipe(name, of_methods, **chosen, bank=str(banks[0])).model_copy(update={"bank": None})
            for short, name in (given if frozen else {}).items()
        }
        recipes = {short: agreeing(recipe, base, banks[0]) for short, recipe in of_base.items()} | from_banks
    if not recipes:
        raise FewshotError(
            "No recipe is given to evaluate.",
            "Recipes come before --data: fewshot eval protonet ridge --data photos/. `fewshot recipes` lists them.",
        )
    for short, recipe in recipes.items():
        check_reads_names(recipe)
        if recipe.bank is None:
            check_learner(short, recipe.learner, protocol)
    return recipes


def protocols_asked(
    protocol: str, given: dict[str, Any], shots: list[str], changes: list[str]
) -> "tuple[AnyProtocol, ...]":
    """The protocol with the settings that are `given` and changed, once for each number of shots."""
    from fewshot_cli.errors import FewshotError
    from fewshot_cli.jobs.benchmark.protocols import protocols

    facts = {name: _number(value) for name, value in given.items() if value is not None}
    many = [_number(number) for listed in shots for number in listed.split(",")]
    if many:
        facts["shots"] = many if len(many) > 1 else many[0]
    for change in changes:
        if change.startswith(PROTOCOL):
            key, equals, value = change.removeprefix(PROTOCOL).partition("=")
            if not equals or not key:
                raise FewshotError(f"--set {change} is not of the form key.path=value.", "As --set protocol.max_way=10")
            facts[key] = _yaml(change, value)
    return protocols({"name": protocol} | facts)


def material(paths: list[Path], split: str | None, targets: list[str]) -> "tuple[Dataset, ...]":
    """The data sets. Raises FewshotError where two have one name, and for targets that are none of them."""
    from fewshot_cli.errors import FewshotError
    from fewshot_cli.images.sources.dataset import read_datasets

    datasets = tuple(dataset for path in paths for dataset in read_datasets(path, split))
    names = [dataset.name for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            raise FewshotError(f"Two data sets are called {name}.", "Rename one, or give the folder that holds both.")
    for name in targets:
        if name not in names:
            raise FewshotError(f"--target {name} is none of the data sets.", f"They are {', '.join(names)}.")
    return datasets


def _yaml(change: str, text: str) -> Any:
    from fewshot_cli.errors import FewshotError
    from fewshot_cli.recipe_files import yaml_value

    try:
        return yaml_value(text)
    except ValueError as error:
        raise FewshotError(f"--set {change} is no value: {error}.", "For example: --set protocol.max_way=10") from None


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value
