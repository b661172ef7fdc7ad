"""Where a file comes from, for people: a tree that goes back from it to its base."""

from collections.abc import Iterator
from pathlib import PurePath

from rich.text import Text
from rich.tree import Tree

from fewshot_cli.reports.layout import classes
from fewshot_cli.results import Ancestor, BankAncestor, DeltaAncestor

MOST_CLASSES = 5
SHORT = 12
"""Digits of a digest, where the whole is elsewhere."""


def chain_shown(chain: Ancestor) -> Tree:
    """The chain, the file itself at the root."""
    tree = Tree(_label(chain), guide_style="dim")
    _grow(tree, chain)
    tree.add(Text.assemble(("base ", "dim"), base_line(chain)))
    return tree


def _grow(tree: Tree, link: Ancestor) -> None:
    for older in ancestors(link):
        _grow(tree.add(_label(older)), older)


def _label(link: Ancestor) -> Text:
    name, facts = name_and_facts(link)
    return Text.assemble((f"{name} ", "bold"), (facts, ""))


def ancestors(link: Ancestor) -> Iterator[Ancestor]:
    """The files that one comes from directly: its parents, and its bank."""
    if isinstance(link, DeltaAncestor | BankAncestor):
        yield from link.parents
        if link.bank is not None:
            yield link.bank


def name_and_facts(link: Ancestor) -> tuple[str, str]:
    """The name of a file, and what is known of it."""
    kind = "bank" if link.kind == "bank" else "delta file"
    if link.file is None:
        return kind, f"sha256 {link.sha256}, which is not beside this file"
    name = PurePath(link.file).name
    if not isinstance(link, DeltaAncestor | BankAncestor):
        return name, f"{kind}, sha256 {link.sha256[:SHORT]}, as above"
    return name, ", ".join(_facts(kind, link))


def _facts(kind: str, link: DeltaAncestor | BankAncestor) -> Iterator[str]:
    yield f"{kind} by {link.method}"
    if isinstance(link, DeltaAncestor):
        yield f"classes {classes(link.classes, MOST_CLASSES)}"
        yield f"{link.images} images, data {link.data[:SHORT]}"
    else:
        yield f"{link.episodes:,} episodes of {', '.join(link.data) or 'no named data'}"
    yield f"seed {link.seed}"
    if "fewshot-cli" in link.versions:
        yield f"fewshot {link.versions['fewshot-cli']}"
    yield f"sha256 {link.sha256[:SHORT]}"


def base_line(chain: Ancestor) -> str:
    """The backbone that all of the chain is on, in a line."""
    base = chain.base
    return f"{base.backbone}, licence {base.licence}, sha256 {base.fingerprint[:SHORT]}" if base else "not known"
