"""What a delta file says was learned: its changes, its graft and its head, as the engine has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fewshot_cli.engine.adaptation import Adapted
from fewshot_cli.engine.grafts import Graft
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import DeltaFile
from fewshot_cli.formats.delta.sections import KeptHead
from fewshot_cli.methods import GRAFTS, TRANSDUCTIVE, class_named
from fewshot_cli.methods.base import GraftSettings, TransductiveMethod


def adapted_of(file: DeltaFile, path: Path) -> Adapted:
    """What the file says was learned. Raises FewshotError for a graft or head of a kind that this fewshot lacks."""
    graft = None
    if file.graft is not None:
        kind: GraftSettings = _of_kind(file.graft.facts.kind, GRAFTS, "a graft", path)
        graft = Graft(kind, file.graft.facts.sites, file.graft.params)
    head = _transductive(file, file.head, path) if isinstance(file.head, KeptHead) else file.head
    return Adapted(file.delta, head, graft)


def _transductive(file: DeltaFile, kept: KeptHead, path: Path) -> TransductiveHead:
    method: TransductiveMethod = _of_kind(kept.settings, TRANSDUCTIVE, "a head", path)
    assert file.support is not None  # as its header says
    known = file.support
    return TransductiveHead(method, known.features, known.labels, len(file.header.classes), kept.factor)


def _of_kind(settings: Mapping[str, Any], registry: Mapping[str, str], what: str, path: Path) -> Any:
    """The settings as the class that the registry has under their name."""
    name = str(settings.get("name"))
    if name not in registry:
        raise FewshotError(f"{path} has {what} of the kind {name!r}, which this fewshot lacks.", "Update fewshot-cli.")
    try:
        return class_named(name, registry).model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FewshotError(f"{path} is damaged: {what} of {name} has a wrong {where}.", "Make it again.") from None


def plain_head(file: DeltaFile, path: Path, doing: str) -> Head:
    """The linear head of a file that changes weights only. Raises FewshotError where there is more to it.

    `doing` says what else can't be done with it.
    """
    adapted = adapted_of(file, path)
    if adapted.graft is not None:
        raise FewshotError(
            f"{path} can't be {doing}: {adapted.graft.kind.why_not_merged}.",
            "`fewshot export --format onnx` takes it as it is.",
        )
    if isinstance(adapted.head, TransductiveHead):
        raise FewshotError(
            f"{path} can't be {doing}: its head is transductive and answers from all queries at once.",
            "`fewshot predict` and `fewshot eval` take it as it is.",
        )
    return adapted.head
