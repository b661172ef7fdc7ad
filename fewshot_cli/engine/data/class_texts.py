"""The texts of classes for a text tower: their names in sentence templates."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

PHOTO = "a photo of a {}."
"""What CoOp and CLIP-LoRA put the names of most data sets into."""


def class_texts(
    classes: Sequence[str],
    templates: Sequence[str] = (),
    descriptions: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> tuple[tuple[str, ...], ...]:
    """The sentences of each class: every template with each of its descriptions, or else its name, in place of "{}".

    Names come from folders, so that an underscore is read as a space. Without templates it is `PHOTO`.
    """
    told = [descriptions.get(name) or (name.replace("_", " "),) for name in classes]
    return tuple(
        tuple(template.replace("{}", one) for template in templates or (PHOTO,) for one in of_class)
        for of_class in told
    )
