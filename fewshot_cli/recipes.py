"""Recipes: a YAML file that says how the backbone moves, which head it gets, with which settings, on which backbone."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

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

from fewshot_cli.engine.mistakes import in_words, merged
from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods import HEADS, META_METHODS, MOVES, AnyHead, AnyMethod
from fewshot_cli.methods.base import HeadMethod, Learner, Method, MoveThenHead, TransductiveMethod
from fewshot_cli.recipe_files import DEFAULT_BACKBONE, parts_of, recipe_content, recipe_path, yaml_value

METHOD_NAMES = [*HEADS, *MOVES, *META_METHODS]
"""What `method.name` can be."""
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


class RecipeForBackbone(Settings):
    """What every recipe says: on which backbone it runs, and at which size of images."""

    backbone: str = DEFAULT_BACKBONE
    image_size: int | None = Field(default=None, ge=16, le=4096)
    """Pixels; None is the size the backbone was trained at."""

    @property
    @abstractmethod
    def method_name(self) -> str:
        """The name of the method, or of the head where there is nothing else."""

    @property
    @abstractmethod
    def needs_text(self) -> bool:
        """Whether it takes the names of the classes for knowledge."""


class Recipe(RecipeForBackbone):
    """What a run does, as the user may say it: how the backbone moves, and which head it gets.

    Without a `method` the backbone stays as it is. Without a `head` it gets the one that the method trains along, else
    ridge. A head alone may also be called a `method`, as all recipes did once.
    """

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
        if isinstance(self.method, Method) and self.head is not None:
            return MoveThenHead(self.method, self.head)
        return self._only_part

    @property
    def is_transductive(self) -> bool:
        """Whether its head answers about all queries at once, so that an answer depends on what else is asked."""
        return any(isinstance(part, TransductiveMethod) for part in (self.method, self.head))

    @property
    def _only_part(self) -> Method | HeadMethod:
        part = self.method or self.head
        assert part is not None  # which validation holds
        return part

    @property
    def method_name(self) -> str:
        return self._only_part.name

    @property
    def needs_text(self) -> bool:
        return self.learner.needs_text

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


def check_reads(recipe: RecipeForBackbone, of_bank: str | None = None) -> None:
    """Raises FewshotError where the recipe takes the names of the classes for knowledge, which its backbone can't read.

    `of_bank` is the backbone of the bank that it begins from, which may have no use for a template either.
    """
    backbone = of_bank or recipe.backbone
    if backbone.startswith(TWO_TOWERS):
        return
    if recipe.needs_text:
        raise FewshotError(
            f"The recipe {recipe.method_name} takes the names of the classes for knowledge, and {backbone} reads no "
            "texts.",
            "Begin from a bank of a backbone clip:MODEL/TAG, or take another recipe."
            if of_bank
            else "Give --backbone clip:MODEL/TAG, such as clip:ViT-B-16/openai.",
        )
    if isinstance(recipe, Recipe) and recipe.template:
        raise FewshotError(
            f"A template would do nothing: {backbone} reads no texts.",
            "Leave it out, of the command as of the file.",
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


def load_recipe(name_or_path: str, changes: Sequence[str] = (), **given: Any) -> Recipe:
    """The recipe of that name or file with the user's changes, validated.

    `changes` are "key.path=value" as `--set` takes them; `given` are top-level fields that options set, None meaning
    not given. Raises FewshotError that lists every mistake at once, each with the path that `--set` takes; and one that
    says so for a recipe to meta-tune by.
    """
    content = changed_content(name_or_path, changes, **given)
    if is_meta(content):
        raise FewshotError(
            f"{name_or_path} is a recipe to meta-tune by: it needs many tasks, not one.",
            f"First `fewshot meta-tune {name_or_path} --data DIR... -o my.bank`, then give --bank my.bank.",
        )
    return parsed(Recipe, content, str(recipe_path(name_or_path)), given)


def parse_recipe(content: Mapping[str, Any], source: str) -> Recipe:
    """The recipe in `content`, which came from `source`. Raises FewshotError that lists every mistake."""
    return parsed(Recipe, content, source)


def changed_content(name_or_path: str, changes: Sequence[str] = (), **given: Any) -> dict[str, Any]:
    """What the recipe of that name or file says after the user's changes, not validated."""
    content = recipe_content(recipe_path(name_or_path))
    for change in changes:
        _set(content, change)
    return content | {key: value for key, value in given.items() if value is not None}


def is_meta(content: Mapping[str, Any]) -> bool:
    """Whether a recipe of this content is one to meta-tune by, which its method decides."""
    return _is_section(content, "method") and content["method"].get("name") in [*META_METHODS]


RecipeType = TypeVar("RecipeType", bound=RecipeForBackbone)


def parsed(
    kind: type[RecipeType], content: Mapping[str, Any], source: str, given: Mapping[str, Any] | None = None
) -> RecipeType:
    """The recipe in `content`; what options have `given` is called by its option in messages."""
    by_option = {key for key, value in (given or {}).items() if value is not None}
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        mistakes = [in_words(item, by_option, METHOD_NAMES) for item in merged(error.errors())]
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
