"""Features with the names of their classes, to which images and classes come and go: what a head is fitted to anew."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class NamedFeatures:
    """Features `(n, dim)` of images, the name of each one's class, and the hash of each one's content.

    Nothing else decides a head in closed form, so one that is fitted after any changes is the one that would have been
    fitted to these images at once, up to rounding.
    """

    features: Tensor
    names: tuple[str, ...]
    contents: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that have images, sorted."""
        return tuple(sorted(set(self.names)))

    @property
    def labels(self) -> Tensor:
        """The place `(n,)` of each image's class among `classes`."""
        place = {name: index for index, name in enumerate(self.classes)}
        return torch.tensor([place[name] for name in self.names], dtype=torch.int64)

    def count(self, name: str) -> int:
        """How many images a class has."""
        return self.names.count(name)

    def joined(self, others: "NamedFeatures") -> "NamedFeatures":
        """These images and then the others."""
        features = torch.cat([self.features, others.features.to(self.features)])
        return NamedFeatures(features, self.names + others.names, self.contents + others.contents)

    def without(self, names: Collection[str]) -> "NamedFeatures":
        """The images of all classes but these."""
        return self.rows([row for row, name in enumerate(self.names) if name not in names])

    def rows(self, rows: Sequence[int]) -> "NamedFeatures":
        """Some of the images."""
        picked = torch.tensor(rows, dtype=torch.int64)
        names, contents = ([listed[row] for row in rows] for listed in (self.names, self.contents))
        return NamedFeatures(self.features[picked], tuple(names), tuple(contents))

    def renamed(self, names: Mapping[str, str]) -> "NamedFeatures":
        """The same images, some classes by other names."""
        return replace(self, names=tuple(names.get(name, name) for name in self.names))

    def relabelled(self, names: Mapping[str, str]) -> "NamedFeatures":
        """The same images, those of some contents in other classes; `names` are these classes by content."""
        pairs = zip(self.names, self.contents, strict=True)
        return replace(self, names=tuple(names.get(content, name) for name, content in pairs))
