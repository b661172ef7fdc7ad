"""Recipes to meta-tune by, and loading a recipe of either kind, which its method decides."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationInfo, field_validator

from fewshot_cli.engine.meta.settings import Training
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods import AnyMetaMethod
from fewshot_cli.recipe_files import installed, recipe_path
from fewshot_cli.recipes import Recipe, RecipeForBackbone, Templates, changed_content, is_meta, parsed


class MetaRecipe(RecipeForBackbone):
    """What a run of meta-tuning does: a recipe with a section `training`."""

    method: AnyMetaMethod
    training: Training = Training()
    template: Templates = ()
    """Sentences with {} for the name of a class, as in a recipe to adapt by."""

    @field_validator("training")
    @classmethod
    def _read_by_the_method(cls, training: Training, given: ValidationInfo) -> Training:
        if method := given.data.get("method"):
            unread = [n for n in method.unread(training) if getattr(training, n) != Training.default_of(n)]
            if unread:
                raise ValueError(f"{', '.join(unread)} would do nothing: {method.name} does not read them")
        return training

    @field_validator("template")
    @classmethod
    def _of_a_text_tower(cls, template: tuple[str, ...], given: ValidationInfo) -> tuple[str, ...]:
        if template and "method" in given.data and not given.data["method"].needs_text:
            raise ValueError("would do nothing: only mamf reads texts, with method.tuning.head=text")
        return template

    @property
    def method_name(self) -> str:
        return self.method.name

    @property
    def needs_text(self) -> bool:
        return self.method.needs_text


def recipe_names(kind: type[RecipeForBackbone] = RecipeForBackbone) -> list[str]:
    """The names of the recipes that come with the install; all, or those of one kind."""
    return [name for name in installed() if issubclass(_kind_of(changed_content(name)), kind)]


def load_any_recipe(name_or_path: str, changes: Sequence[str] = (), **given: Any) -> RecipeForBackbone:
    """The recipe of either kind, as `load_recipe` has it."""
    content = changed_content(name_or_path, changes, **given)
    return parsed(_kind_of(content), content, str(recipe_path(name_or_path)), given)


def load_meta_recipe(name_or_path: str, changes: Sequence[str] = (), **given: Any) -> MetaRecipe:
    """The recipe to meta-tune by, as `load_recipe` has it. Raises FewshotError for one that adapts to a single task."""
    recipe = load_any_recipe(name_or_path, changes, **given)
    if not isinstance(recipe, MetaRecipe):
        raise FewshotError(
            f"{name_or_path} is a recipe to adapt to one task by, not to meta-tune by.",
            f"There are {', '.join(recipe_names(MetaRecipe))}. `fewshot adapt FOLDER --recipe {name_or_path}` adapts.",
        )
    return recipe


def parse_meta_recipe(content: Mapping[str, Any], source: str) -> MetaRecipe:
    """The recipe to meta-tune by in `content`. Raises FewshotError that lists every mistake."""
    return parsed(MetaRecipe, content, source)


def _kind_of(content: Mapping[str, Any]) -> type[Recipe] | type[MetaRecipe]:
    return MetaRecipe if is_meta(content) else Recipe
