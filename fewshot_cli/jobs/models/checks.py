"""Whether a delta file and a backbone go together."""

from collections.abc import Mapping
from pathlib import Path

from fewshot_cli.engine.grafts import check_graft
from fewshot_cli.engine.model.backbone import Backbone, fingerprint
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import BaseFacts, DeltaFile
from fewshot_cli.jobs.models.adapted import adapted_of
from fewshot_cli.jobs.models.backbones import shapes_of


def check_base(file: DeltaFile, backbone: Backbone, path: Path) -> None:
    """Raises FewshotError unless the backbone is the one that the file was made for."""
    check_fingerprint(file.header.base, backbone, path, "adapted", file.header.touched)
    check_delta(file, backbone, path)


def check_fingerprint(
    base: BaseFacts, backbone: Backbone, path: Path, made: str, touched: Mapping[str, str] | None = None
) -> None:
    """Raises FewshotError unless the weights are those that `path` was made for; `made` says how.

    A classifier among them is no part of the backbone: it may be another, or missing, unless `path` is of before files
    said so. The error names the first parameter that is other than one of `touched`, the hashes of what `path` changes.
    """
    if not base.is_on_weights(backbone.fingerprint, backbone.body_fingerprint):
        others = [name for name, digest in (touched or {}).items() if _hash_of(name, backbone) != digest]
        where = f", and {others[0]}, which it changes, is another" if others else ""
        where += f", as are {len(others) - 1} more" if len(others) > 1 else ""
        raise FewshotError(
            f"These weights of {base.backbone} are not the ones {path} was made for: "
            f"fingerprint {backbone.fingerprint[:12]}, not {base.fingerprint[:12]}{where}.",
            f"Give --weights the very file that it was {made} from.",
        )


def _hash_of(name: str, backbone: Backbone) -> str:
    return fingerprint({name: backbone.params[name]}) if name in backbone.params else ""


def check_delta(file: DeltaFile, backbone: Backbone, path: Path) -> None:
    """Raises FewshotError unless the file's delta and head fit the backbone."""
    check_shapes(file.header.shapes, shapes_of(backbone), backbone.name, path)
    adapted = adapted_of(file, path)
    if adapted.graft is not None:
        try:
            check_graft(adapted.graft, backbone.module)
        except ValueError as error:
            raise FewshotError(
                f"{path} has a graft that does not fit {backbone.name}: {error}.", "Make it again."
            ) from None
    dim = adapted.graft.kind.width(backbone.dim) if adapted.graft else backbone.dim
    dims = {adapted.head.dim} | ({file.support.features.shape[1]} if file.support else set())
    if dims != {dim}:
        raise FewshotError(
            f"{path} has a head for {adapted.head.dim} features; {backbone.name} has {dim}.",
            "Make it again.",
        )


def check_shapes(
    changed: Mapping[str, tuple[int, ...]], known: Mapping[str, tuple[int, ...]], backbone: str, path: Path
) -> None:
    """Raises FewshotError unless the parameters that a file changes are among the backbone's, and of its shapes."""
    for name, shape in changed.items():
        if known.get(name) != tuple(shape):
            raise FewshotError(
                f"{path} changes {name} {tuple(shape)}, which {backbone} does not have.", "Make it again."
            )
