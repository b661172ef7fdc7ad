"""Whether a recipe can learn from images with several labels: checked before torch is imported."""

from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.base import MarkingMethod
from fewshot_cli.recipes import Recipe


def marking_method(recipe: Recipe, root: Path) -> MarkingMethod:
    """What learns several labels of an image. Raises FewshotError for a recipe that gives one."""
    method = recipe.learner.marking
    if method is None or recipe.bank is not None:
        begun = ", begun from a bank," if method else ""
        raise FewshotError(
            f"The images of {root} have several labels, and the recipe {recipe.method_name}{begun} gives an image one.",
            "Give --recipe ridge, which gives several, or --labels one to make one class of each folder.",
        )
    return method
