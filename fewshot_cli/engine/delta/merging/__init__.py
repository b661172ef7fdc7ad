"""One delta from several on the same base, by one of the rules for merging task vectors, which is what deltas are.

A rule is one file with its settings. It works parameter by parameter on the values that any of the deltas changes; one
that a delta does not name it leaves as it is. None of them needs torch to be chosen and checked.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from fewshot_cli.engine.delta.merging.add import Add
from fewshot_cli.engine.delta.merging.dare import DARE
from fewshot_cli.engine.delta.merging.ties import TIES
from fewshot_cli.errors import FewshotError

AnyMerge: TypeAlias = Annotated[Add | TIES | DARE, Field(discriminator="rule")]


def merge_rule(rule: str, density: float | None) -> AnyMerge:
    """The rule called so; `density` None is the paper's. Raises FewshotError for one that is no share, or not used."""
    if density is not None and not 0 < density <= 1:
        raise FewshotError(f"A density of {density:g} is not above 0 and at most 1.", "Give another --density.")
    if rule == "add":
        if density is not None:
            raise FewshotError(
                "--density is the share of values that ties and dare keep; add keeps all.",
                "Leave it out, or give --rule ties or --rule dare.",
            )
        return Add()
    kind = TIES if rule == "ties" else DARE
    return kind() if density is None else kind(density=density)
