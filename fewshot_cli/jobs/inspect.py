"""What a delta file holds."""

from pathlib import Path

from fewshot_cli import __version__
from fewshot_cli.engine.deltas import LowRank, Sparse, density
from fewshot_cli.files.delta_file import read_delta_file
from fewshot_cli.jobs.record import Report


def inspect(path: Path) -> Report:
    """The file's facts; the backbone itself is not needed. Raises FewshotError for a file that is no delta file."""
    file = read_delta_file(path)
    base = file.header.base
    return {
        "command": "inspect",
        "version": __version__,
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": file.digest,
        "backbone": base.backbone,
        "fingerprint": base.fingerprint,
        "licence": base.licence,
        "image_size": list(base.preprocessing.size),
        "method": file.header.method,
        "classes": list(file.header.classes),
        "head": {"dim": file.head.weight.shape[1], "unit_norm": file.head.unit_norm},
        "density": density(file.delta, base.size),
        "changes": [
            {
                "parameter": name,
                "shape": list(change.shape),
                "form": "low rank"
                if isinstance(change, LowRank)
                else "sparse"
                if isinstance(change, Sparse)
                else "dense",
                "changed": change.nonzeros(),
            }
            for name, change in file.delta.items()
        ],
        "recipe": file.header.recipe,
        **file.header.provenance.model_dump(exclude={"learned_from"}),
    }
