"""What meta-tuning practises on: domains, the tasks drawn from them, and the part kept for validation."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Images
from fewshot_cli.engine.data.crops import draw_views
from fewshot_cli.engine.data.episode import Pool
from fewshot_cli.engine.data.episode_samplers import AnyProtocol
from fewshot_cli.engine.meta.drawn_task import DrawnTask
from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.settings import LARGEST_SHARE, SplitBy, ViewSettings
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.rng import Draws
from fewshot_cli.errors import FewshotError

KEPT = " (validation)"  # what the name of a part that is kept ends in


@dataclass(frozen=True, eq=False)
class Domain:
    """Pictures to draw tasks from: `features` `(n, dim)` and `images` are what the frozen backbone sees in the pool's.

    `rows` are the pool's images among these. `texts` are what a text tower reads of each of the pool's classes, where
    one does.
    """

    pool: Pool
    features: Tensor = field(repr=False)
    images: Images = field(repr=False)
    rows: npt.NDArray[np.int64] = field(repr=False)
    texts: tuple[tuple[str, ...], ...] = ()

    @property
    def source(self) -> str:
        """The name of the domain that this is, or is a kept part of."""
        return self.pool.name.removesuffix(KEPT)

    @classmethod
    def whole(cls, pool: Pool, features: Tensor, images: Images) -> "Domain":
        """The domain of all of a pool's images, with their features `(images, dim)`."""
        return cls(pool, features, images, np.arange(len(pool.labels)))

    @classmethod
    def of_pictures(cls, name: str, images: Images, labels: Tensor, backbone: Backbone) -> "Domain":
        """The domain of pictures `(n, 3, height, width)` uint8, of the backbone's size, with labels `(n,)` from 0."""
        classes = tuple(str(label) for label in range(int(labels.max()) + 1))
        pool = Pool(name, classes, labels.cpu().numpy(), np.zeros(len(labels), dtype=np.int64), (name,))
        features = backbone.frozen_features(images[torch.arange(len(images))])
        return cls.whole(pool, features, images)

    def of(self, kept: npt.NDArray[np.bool_], name: str) -> "Domain":
        """The domain of only these of the pool's images; a class without any is no longer one."""
        labels = self.pool.labels[kept]
        classes = np.unique(labels)
        number = np.full(len(self.pool.classes), -1)
        number[classes] = np.arange(len(classes))

        def renumbered(groups: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
            left = {name: tuple(int(number[c]) for c in group if number[c] >= 0) for name, group in groups.items()}
            return {name: group for name, group in left.items() if group}

        pool = replace(
            self.pool,
            name=name,
            classes=tuple(self.pool.classes[c] for c in classes),
            labels=number[labels].astype(np.int64),
            domains=self.pool.domains[kept],
            nodes=renumbered(dict(self.pool.nodes)),
            superclasses=renumbered(dict(self.pool.superclasses)),
        )
        texts = tuple(self.texts[c] for c in classes) if self.texts else ()
        return Domain(pool, self.features, self.images, self.rows[kept], texts)

    def drawn(self, protocol: AnyProtocol, seed: int, number: int, views: ViewSettings | None) -> DrawnTask:
        """Episode `number`, on the CPU.

        `views` vary the pictures, not their features: those are the plain pictures', so that they never need a pass.
        """
        episode = protocol.episode(self.pool, seed, number)
        (session,) = episode.sessions
        rows = torch.from_numpy(self.rows[np.concatenate([session.support, session.query])])
        varied = None
        if views:
            draws = Draws(seed, f"views {self.pool.name}", number)
            varied = draw_views(draws, len(rows), views.scale, views.ratio, views.jitter)
        labels = torch.from_numpy(np.concatenate([session.support_labels, session.query_labels]))
        texts = tuple(self.texts[c] for c in episode.classes[: session.way]) if self.texts else ()
        return DrawnTask(self.images[rows], rows, labels, len(session.support), session.way, varied, texts)

    def task(
        self, protocol: AnyProtocol, backbone: Backbone, seed: int, number: int, views: ViewSettings | None
    ) -> FeaturedTask:
        """Episode `number` as tensors on the backbone's device, its pictures varied as `drawn` has it."""
        return self.drawn(protocol, seed, number, views).on(backbone, self.features)


def parted(
    domain: Domain, protocol: AnyProtocol, share: float, seed: int, split_by: SplitBy = "class"
) -> tuple[Domain, Domain | None]:
    """What to practise on and what to validate with, which have no class in common, or else no image.

    As near to `share` as the protocol lets both be; None where the domain is too small for both. Split by `image`, both
    have all classes; which images are kept is drawn, where MAMF's release takes the last as they are stored.
    """
    for split in (_by_class, _by_image) if split_by == "class" else (_by_image,):
        for kept_share in _shares(share):
            kept = split(domain.pool, kept_share, seed)
            parts = domain.of(~kept, domain.pool.name), domain.of(kept, f"{domain.pool.name}{KEPT}")
            if all(_fits(part.pool, protocol) for part in parts):
                return parts
    return domain, None


def _shares(least: float) -> Iterator[float]:
    while least < LARGEST_SHARE:
        yield least
        least += 0.05
    yield LARGEST_SHARE


def _by_class(pool: Pool, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which images are of the share of the classes, drawn at random, that is kept; of every domain of the pool."""
    order = Draws(seed, f"validation classes {pool.name}", 0).choose(len(pool.classes), len(pool.classes))
    return np.isin(pool.labels, order[: round(share * len(order))])


def _by_image(pool: Pool, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which images are in the share of every class, drawn at random, that is kept; of every domain of the pool."""
    draws = Draws(seed, f"validation images {pool.name}", 0)
    kept = np.zeros(len(pool.labels), dtype=bool)
    for of_domain in pool.by_domain:
        for of_class in of_domain:
            kept[draws.shuffled(of_class)[: round(share * len(of_class))]] = True
    return kept


def _fits(pool: Pool, protocol: AnyProtocol) -> bool:
    try:
        protocol.check(pool)
    except FewshotError:
        return False
    return len(pool.classes) > 1
