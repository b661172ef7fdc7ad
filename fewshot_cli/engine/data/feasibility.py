"""How many classes and images a protocol may ask for, and whether a pool has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:  # recipes are checked without NumPy
    from fewshot_cli.engine.data.episode import Pool
    from fewshot_cli.engine.rng import Numbers

Way: TypeAlias = Annotated[int, Field(ge=2)] | Literal["all"]
Count: TypeAlias = Annotated[int, Field(ge=1)]
CountOrAll: TypeAlias = Count | Literal["all"]


def at_least(count: CountOrAll) -> int:
    """How many images of a class it takes: all are one at least."""
    return 1 if count == "all" else count


def check_way(pool: Pool, way: Way, setting: str = "way") -> None:
    """Raises FewshotError where a pool has fewer classes than `setting` asks for."""
    n = len(pool.classes)
    if n < 2:
        raise FewshotError(f"{pool.name} has {number(n, 'classes')}; telling apart takes two.", "Add another class.")
    if way != "all" and way > n:
        raise FewshotError(
            f"{pool.name} has {n} classes, fewer than {'--' * (setting == 'way')}{setting} {way}.",
            f"Use {given(setting, n)}.",
        )


def check_across(pool: Pool, way: Way, shots: CountOrAll, queries: CountOrAll) -> None:
    """Raises FewshotError where a pool has too few classes, or one of its domains too few images of one.

    The domain that is asked about may lack classes, where all are learned.
    """
    check_way(pool, way)
    *sources, target = range(len(pool.domain_names))
    for domain in sources:
        images = [pool.to_learn(of_class) for of_class in pool.by_domain[domain]]
        check_images(pool, images, {"shots": at_least(shots)}, where=f" in {pool.domain_names[domain]}")
    check_asked(pool, target, way, queries)


def check_asked(pool: Pool, domain: int, way: Way, queries: CountOrAll) -> None:
    """Raises FewshotError where a domain of a pool has too few images to ask about of a class that it has.

    Also where it lacks classes, and an episode might draw these alone.
    """
    name, there = pool.domain_names[domain], [c for c, images in enumerate(pool.by_domain[domain]) if len(images)]
    if len(there) < len(pool.classes) and way not in ("all", len(pool.classes)):
        raise FewshotError(
            f"{name} has {len(there)} of the {len(pool.classes)} classes that are learned, and an episode of --way "
            f"{way} may draw none of them.",
            f"Use {given('way', 'all')}: it is asked about the classes that it has, answered among all.",
        )
    images = [pool.to_ask(of_class) for of_class in pool.by_domain[domain]]
    check_images(pool, images, {"queries": at_least(queries)}, where=f" in {name}", among=there)


def check_both(
    pool: Pool,
    images: Sequence[Numbers],
    shots: Mapping[str, int],
    queries: CountOrAll,
    where: str = "",
    among: Sequence[int] | None = None,
) -> None:
    """Raises FewshotError where a class has too few images to learn from and to ask about.

    In a fixed split these are different images; else the same ones, which have to do for both.
    """
    asked = {"queries": at_least(queries)}
    if pool.roles is None:
        check_images(pool, images, {**shots, **asked}, where, among)
        return
    check_images(pool, [pool.to_learn(each) for each in images], shots, f"{where} to learn from", among)
    check_images(pool, [pool.to_ask(each) for each in images], asked, f"{where} to ask about", among)


def check_images(
    pool: Pool,
    images: Sequence[Numbers],
    needs: Mapping[str, int],
    where: str = "",
    among: Sequence[int] | None = None,
) -> None:
    """Raises FewshotError where a class has too few images; `needs` says how many each setting takes."""
    needed = sum(needs.values())
    small = [c for c in (range(len(images)) if among is None else among) if len(images[c]) < needed]
    if not small:
        return
    smallest = min(small, key=lambda c: len(images[c]))
    n = len(images[smallest])
    others = f" {number(len(small) - 1, 'classes')} more {'has' if len(small) == 2 else 'have'} too few."
    fits = {setting: n - (needed - count) for setting, count in needs.items()}
    options = [given(setting, count) for setting, count in fits.items() if count > 0]
    wanted = " and ".join(number(count, setting.replace("_", " ")) for setting, count in needs.items())
    raise FewshotError(
        f"{pool.name}: the class '{pool.classes[smallest]}' has {number(n, 'images')}{where}; "
        f"{wanted} need{'s' * (needed == 1)} {needed}." + others * (len(small) > 1),
        f"Use {' or '.join(options)}, or add images, or take the class out."
        if options
        else "Add images, or take the class out.",
    )


def given(setting: str, value: int | str) -> str:
    """How a user gives a setting: some have an option of their own."""
    if setting in ("way", "shots", "queries", "sessions"):
        return f"--{setting} {value}"
    return f"--set protocol.{setting}={value}"


def number(count: int, things: str) -> str:
    """A count with its noun, which is given in the plural: "1 class", "2 classes"."""
    if count == 1:
        for plural, singular in (("classes", "class"), ("images", "image"), ("queries", "query"), ("shots", "shot")):
            things = things.replace(plural, singular)
    return f"{count} {things}"
