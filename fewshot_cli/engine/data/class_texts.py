"""What a text tower is told of classes: their names in sentences."""

from collections.abc import Mapping, Sequence

PHOTO = "a photo of a {}."
"""What CoOp and CLIP-LoRA put the names of most data sets into."""


def class_texts(
    classes: Sequence[str], templates: Sequence[str] = (PHOTO,), descriptions: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], ...]:
    """The sentences `(templates,)` of each class: its description, or else its name, in the place of each "{}".

    Names come from folders, so that an underscore is read as a space.
    """
    told = [(descriptions or {}).get(name, name).replace("_", " ") for name in classes]
    return tuple(tuple(template.replace("{}", one) for template in templates) for one in told)
