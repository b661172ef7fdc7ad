"""Recipes: a YAML file that says how the backbone moves, which head it gets, with which settings, on which backbone."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fewshot_cli.engine.meta.settings import Training
from fewshot_cli.engine.mistakes import in_words, merged
from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods import AnyHead, AnyMetaMethod, AnyMethod
from fewshot_cli.methods.base import Learner, Method, MoveThenHead, TransductiveMethod
from fewshot_cli.methods.ridge import Ridge
from fewshot_cli.recipe_files import DEFAULT_BACKBONE, installed, parts_of, recipe_content, recipe_path, yaml_value

TWO_TOWERS = "clip:"
"""How the names of backbones begin that read texts, too."""


def _with_a_place(template: str) -> str:
    """The template, if it has a place for a name; raises ValueError where it has none."""
    if "{}" not in template:
        raise ValueError(f"{template!r} has no {{}} for the name of a class")
    return template


Templates: TypeAlias = Annotated[
    tuple[Annotated[str, Field(max_length=1000), AfterValidator(_with_a_place)], ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
]
"""Sentences with {} for the name of a class; one alone may be written as such."""


class Recipe(Settings):
    """What a run does, as the user may say it: how the backbone moves, and which head it gets.

    Without a `method` the backbone stays as it is. Without a `head` it gets the one that the method trains along, else
    ridge. A head alone may also be called a `method`, as all recipes did once.
    """

    backbone: str = DEFAULT_BACKBONE
    image_size: int | None = Field(default=None, ge=16, le=4096)
    """Pixels; None is the size the backbone was trained at."""
    bank: str | None = None
    """The file of the bank to begin from, whose backbone and image size it takes."""
    density: float | None = Field(default=None, gt=0, le=1)
    """The share of all weights that the bank may move, those it moves furthest; None lets it move all it does."""
    template: Templates = ()
    """Sentences with {} for the name of a class, which a text tower reads; several are averaged. () is "a photo of a
    {}."."""
    method: AnyMethod | None = None
    head: AnyHead | None = None

    @field_validator("template")
    @classmethod
    def _of_a_text_tower(cls, template: tuple[str, ...], given: ValidationInfo) -> tuple[str, ...]:
        backbone, bank = given.data.get("backbone", ""), given.data.get("bank")
        if template and bank is None and not backbone.startswith(TWO_TOWERS):
            raise ValueError(f"would do nothing: {backbone} reads no texts; clip:MODEL/TAG does")
        return template

    @model_validator(mode="before")
    @classmethod
    def _refit_is_a_head(cls, content: Any) -> Any:
        """Recipes of earlier versions said `method.tuning.refit: true` for `head: {name: ridge}`."""
        tuning = content.get("method", {}).get("tuning") if _is_section(content, "method") else None
        if not isinstance(tuning, dict) or not isinstance(tuning.get("refit"), bool):
            return content
        kept = {key: value for key, value in tuning.items() if key != "refit"}
        content = content | {"method": content["method"] | {"tuning": kept}}
        return content | {"head": {"name": "ridge"}} if tuning["refit"] and not content.get("head") else content

    @model_validator(mode="after")
    def _says_something(self) -> "Recipe":
        if self.method is None and self.head is None:
            raise PydanticCustomError("nothing_said", "neither is given")
        whole = isinstance(self.method, Method) and self.method.is_whole
        if self.head is not None and self.method is not None and (whole or self.method.head_only is not None):
            raise PydanticCustomError(
                "two_heads",
                "{method} is a head already, and {head} is another; leave one out",
                {"method": self.method.name, "head": self.head.name},
            )
        return self

    @property
    def learner(self) -> Learner:
        """What learns a task as the recipe says."""
        if self.method is None or self.head is None:
            return self.method or self.head or Ridge()
        return MoveThenHead(self.method, self.head) if isinstance(self.method, Method) else self.method

    @property
    def is_transductive(self) -> bool:
        """Whether its head answers about all queries at once, so that an answer depends on what else is asked."""
        return any(isinstance(part, TransductiveMethod) for part in (self.method, self.head))

    @property
    def method_name(self) -> str:
        """The name of the method, or of the head where there is nothing else."""
        return (self.method or self.head or Ridge()).name

    @property
    def head_name(self) -> str | None:
        """The name of a head that takes the place of the one trained along."""
        return self.head.name if self.head and self.method else None

    @field_validator("density")
    @classmethod
    def _of_a_bank(cls, density: float | None, given: ValidationInfo) -> float | None:
        if density is not None and given.data.get("bank", "") is None:
            raise ValueError("is of a bank, and none is given")
        return density


def _is_section(content: Any, name: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(name), dict)


class MetaRecipe(Settings):
    """What a run of meta-tuning does: a recipe with a section `training`."""

    backbone: str = DEFAULT_BACKBONE
    image_size: int | None = Field(default=None, ge=16, le=4096)
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
        """The name of the method."""
        return self.method.name


def check_reads(recipe: Recipe | MetaRecipe) -> None:
    """Raises FewshotError where the recipe takes the names of the classes for knowledge, which its backbone can't read.

    With a bank that is for the bank's backbone to say.
    """
    how = recipe.learner if isinstance(recipe, Recipe) else recipe.method
    if how.needs_text and getattr(recipe, "bank", None) is None and not recipe.backbone.startswith(TWO_TOWERS):
        raise FewshotError(
            f"The recipe {recipe.method_name} takes the names of the classes for knowledge, and "
            f"{recipe.backbone} reads no texts.",
            "Give --backbone clip:MODEL/TAG, such as clip:ViT-B-16/openai.",
        )


DEFAULT_FOLDS = 2
"""Halves: the learning curve makes up for what the other half would have taught (`benchmarks/budget.py`)."""


def folds_asked(recipe: Recipe, folds: int | None, kind_of_bank: str | None = None) -> int:
    """In how many folds the accuracy of what the recipe learns is estimated; `folds` None takes the default.

    A dense bank only moves the backbone, so that a formula stays one; others are learned from anew in every fold.
    Raises FewshotError where a number would do nothing, or leave nothing to learn from.
    """
    if folds == 1:
        raise FewshotError(
            "--folds 1 leaves nothing to learn from: the one fold is all images.",
            "Give 2 or more, or 0 for no estimate.",
        )
    if folds is not None and recipe.learner.closed_form is not None and kind_of_bank in (None, "dense"):
        raise FewshotError(
            f"--folds is of methods that train: the estimate of {recipe.method_name} is exact, each image left out "
            "once.",
            "Leave it out.",
        )
    return DEFAULT_FOLDS if folds is None else folds


RecipeType = TypeVar("RecipeType", Recipe, MetaRecipe)


def recipe_names(kind: type[Recipe] | type[MetaRecipe] | None = None) -> list[str]:
    """The names of the recipes that come with the install; all, or those of one kind."""
    return [name for name in installed() if kind is None or isinstance(load_any_recipe(name), kind)]


def method_names(methods: Any = AnyMethod) -> list[str]:
    """What `method.name` can be, in a recipe to adapt by or, of AnyMetaMethod, in one to meta-tune by."""
    union, *_ = get_args(methods)
    return [method.model_fields["name"].default for method in get_args(union)]


def load_recipe(name_or_path: str, changes: Sequence[str] = (), **given: Any) -> Recipe:
    """The recipe of that name or file with the user's changes, validated.

    `changes` are "key.path=value" as `--set` takes them; `given` are top-level fields that options set, None meaning
    not given. Raises FewshotError that lists every mistake at once, each with the path that `--set` takes; so it does
    for a recipe to meta-tune by.
    """
    recipe = load_any_recipe(name_or_path, changes, **given)
    if isinstance(recipe, MetaRecipe):
        raise FewshotError(
            f"{name_or_path} is a recipe to meta-tune by: it needs many tasks, not one.",
            f"First `fewshot meta-tune {name_or_path} --data DIR... -o my.bank`, then give --bank my.bank.",
        )
    return recipe


def load_meta_recipe(name_or_path: str, changes: Sequence[str] = (), **given: Any) -> MetaRecipe:
    """The recipe to meta-tune by, as `load_recipe` has it. Raises FewshotError for one that adapts to a single task."""
    recipe = load_any_recipe(name_or_path, changes, **given)
    if isinstance(recipe, Recipe):
        raise FewshotError(
            f"{name_or_path} is a recipe to adapt to one task by, not to meta-tune by.",
            f"There are {', '.join(recipe_names(MetaRecipe))}. `fewshot adapt FOLDER --recipe {name_or_path}` adapts.",
        )
    return recipe


def load_any_recipe(name_or_path: str, changes: Sequence[str] = (), **given: Any) -> Recipe | MetaRecipe:
    """The recipe of either kind, which its method decides."""
    path = recipe_path(name_or_path)
    content = recipe_content(path)
    for change in changes:
        _set(content, change)
    content |= {key: value for key, value in given.items() if value is not None}
    method = content.get("method")
    by_option = {key for key, value in given.items() if value is not None}
    if isinstance(method, dict) and method.get("name") in method_names(AnyMetaMethod):
        return _parsed(MetaRecipe, content, str(path), by_option)
    return _parsed(Recipe, content, str(path), by_option)


def parse_recipe(content: Mapping[str, Any], source: str) -> Recipe:
    """The recipe in `content`, which came from `source`. Raises FewshotError that lists every mistake."""
    return _parsed(Recipe, content, source)


def parse_meta_recipe(content: Mapping[str, Any], source: str) -> MetaRecipe:
    """The recipe to meta-tune by in `content`. Raises FewshotError that lists every mistake."""
    return _parsed(MetaRecipe, content, source)


def _parsed(
    kind: type[RecipeType], content: Mapping[str, Any], source: str, by_option: Collection[str] = ()
) -> RecipeType:
    """The recipe in `content`; what is `by_option` is called by its option in messages."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        mistakes = [in_words(item, by_option, _every_method()) for item in merged(error.errors())]
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise FewshotError(
            f"The recipe {source} has {count}:\n" + "\n".join(f"  {mistake}" for mistake in mistakes),
            "Mend the file, or give a value with --set PATH=VALUE; `fewshot recipes show NAME` prints one that works.",
        ) from None


def _set(content: dict[str, Any], change: str) -> None:
    keys, text = parts_of(change)
    try:
        value = yaml_value(text)
    except ValueError:
        value = text
    section = content
    for key in keys[:-1]:
        inner = section.setdefault(key, {})
        if not isinstance(inner, dict):
            raise FewshotError(
                f"--set {change}: '{key}' is a value, not a section.",
                "`fewshot recipes show NAME` prints the sections.",
            )
        section = inner
    section[keys[-1]] = value


def _every_method() -> list[str]:
    return method_names() + method_names(AnyMetaMethod)
