"""The model card of a delta file or a bank."""

from pathlib import Path

from fewshot_cli.engine.model.timm_names import hub_repository, licence_of
from fewshot_cli.errors import FewshotError
from fewshot_cli.reports.documents.model_card import SOMEWHERE, card, subject
from fewshot_cli.results import AnyInspected
from fewshot_cli.storage.atomic import check_writable, write_atomically


def check_card(path: Path) -> None:
    """Raises FewshotError where no card can be written to `path`, before any work is done for it.

    A card that `fewshot` wrote and nobody has edited since may be replaced, by its hash of itself; nothing else may.
    """
    if path.suffix.lower() != ".md":
        raise FewshotError(f"{path} does not end in .md, which a model card is.", "For example: --card README.md")
    check_writable(path)
    if path.is_file() and (text := path.read_bytes()) and subject(text.decode(errors="replace")) is None:
        raise FewshotError(
            f"{path} is there already, and is no model card that nobody has edited.",
            "Give another name, for example --card CARD.md, or remove it first.",
        )


def card_of(result: AnyInspected, repository: str = SOMEWHERE) -> str:
    """The card of what `inspect` found. A base that this timm does not know is named, and no more said of it."""
    if result.towers:
        return card(result, result.towers.repository or None, repository=repository)
    try:
        return card(result, hub_repository(result.backbone), licence_of(result.backbone), repository)
    except FewshotError:
        return card(result, repository=repository)


def write_card(result: AnyInspected, path: Path) -> None:
    """Writes the card of what `inspect` found."""
    write_atomically(path, card_of(result))
