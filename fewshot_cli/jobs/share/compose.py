"""One classifier from those of several users on the same base, and what they disagree on."""

import hashlib
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fewshot_cli.engine.delta.change import Change, Delta, density, is_same, scaled
from fewshot_cli.engine.delta.merging import AnyMerge
from fewshot_cli.engine.delta.merging.add import Add
from fewshot_cli.engine.delta.merging.overlap import Overlap, overlaps, survival
from fewshot_cli.engine.head.joining import JoinedHead, joined
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import (
    HEAD_VALUES,
    DeltaFile,
    Expected,
    Header,
    HeadValues,
    Provenance,
    as_stored,
    head_as_stored,
    write_delta_file,
)
from fewshot_cli.formats.delta.rounding import BITS, Values
from fewshot_cli.formats.weights import agreed_licence
from fewshot_cli.jobs.models.adapted import plain_head
from fewshot_cli.jobs.models.backbones import parameter_shapes_of
from fewshot_cli.jobs.models.checks import check_shapes
from fewshot_cli.jobs.models.classifiers import read_on_one_base
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.proofs.contents import check_contents
from fewshot_cli.jobs.run_record import seconds_since, versions, write_run
from fewshot_cli.results import ComposedAs, ComposedFile, ComposeResult, Disagreement, MergedWeights, SharedClass
from fewshot_cli.storage.atomic import check_writable, staged

COMPOSED = "composed with others"
MOST_LAYERS = 10  # to name among those that disagree


@dataclass(frozen=True)
class ComposeSettings:
    """The rule of merging, how far to go from the base, and how the file keeps the changes.

    `values` None takes the fewest bits, of those that one of the files is kept in, that lose nothing, else float32.
    """

    rule: AnyMerge = field(default_factory=Add)
    scale: float = 1.0
    seed: int = 0
    values: Values | None = None

    def of(self, deltas: Sequence[Delta], names: Sequence[str]) -> dict[str, Change]:
        """The composed delta; `names` decide the random numbers of each."""
        found = self.rule.merged(deltas, names, self.seed)
        return found if self.scale == 1 else scaled(found, self.scale)


def compose(files: Sequence[Path], output: Path, how: ComposeSettings, progress: Progress) -> ComposeResult:
    """Writes one classifier with all classes of several delta files, and reports where they meet and disagree.

    The order of the files changes nothing but the order of the report. Raises FewshotError for files that don't go
    together, and CheckFailed where what was written does not read back as what was composed.
    """
    start = time.perf_counter()
    check_writable(output)
    read = _read(files, output)
    ordered = sorted(read, key=lambda file: file.digest)
    deltas = [file.delta for file in ordered]
    with progress.track("composing") as advance:
        advance(0, 3)
        exact = how.of(deltas, [file.digest for file in ordered])
        head = joined(
            [plain_head(file, output, COMPOSED) for file in ordered], [file.header.classes for file in ordered]
        )
        values = how.values or _narrowest(exact, {file.stored.values for file in ordered}, how.seed)
        delta, head_values = as_stored(exact, values, how.seed), _narrowest_head(head.head)
        advance(1, 3)
        header = _header(ordered, delta, head, how)
        with staged(output) as draft:
            size = write_delta_file(draft, header, delta, head.head, values, head_values)
            check_contents(draft, delta, None, head.head, "composed")
        advance(2, 3)
        met = overlaps(deltas)
    factors = {file.digest: factor for file, factor in zip(ordered, head.factors, strict=True)}
    result = ComposeResult(
        seed=how.seed,
        backbone=header.base.backbone,
        rule=how.rule.rule,
        scale=how.scale,
        kept=how.rule.density_kept,
        file=str(output),
        bytes=size,
        density=density(delta, header.base.size),
        values=ComposedAs(values, head_values, is_same(delta, exact)),
        classes=header.classes,
        shared_classes=_shared_classes(files, read, head),
        files=_composed_files(files, read, delta, factors),
        weights=_merged_weights(met),
        seconds=seconds_since(start),
    )
    write_run(output, result)
    return result


def _composed_files(
    files: Sequence[Path], read: Sequence[DeltaFile], delta: Delta, factors: Mapping[str, float]
) -> tuple[ComposedFile, ...]:
    """What became of each file; `factors` say by digest what its rows of the head were multiplied by."""
    return tuple(
        ComposedFile(
            file=str(path),
            sha256=file.digest,
            method=file.header.method,
            classes=file.header.classes,
            bank=file.header.provenance.bank,
            density=density(file.delta, file.header.base.size),
            survival=survival(file.delta, delta),
            head_factor=factors[file.digest],
        )
        for path, file in zip(files, read, strict=True)
    )


def _read(files: Sequence[Path], output: Path) -> list[DeltaFile]:
    """The classifiers. Raises FewshotError unless they are several, on one base, with heads that can be joined."""
    if len(files) < 2:
        raise FewshotError("A single delta file is nothing to compose.", "Name two or more, on the same base.")
    for path in files:
        if output.exists() and path.exists() and output.samefile(path):
            raise FewshotError(f"{output} is one of the files to compose.", "Choose another output with -o.")
    read = read_on_one_base(files)
    base = read[0].header.base
    shapes = parameter_shapes_of(base)
    first: dict[str, Path] = {}
    for path, file in zip(files, read, strict=True):
        if first.setdefault(file.digest, path) != path or files.count(path) > 1:
            raise FewshotError(f"{first[file.digest]} and {path} are the same classifier.", "Name each once.")
        head, first_head = plain_head(file, path, COMPOSED), plain_head(read[0], files[0], COMPOSED)
        if head.dim != first_head.dim:
            raise FewshotError(f"{files[0]} and {path} have heads for different features.", "Make one of them again.")
        if head.unit_norm != first_head.unit_norm:
            one, other = (path, files[0]) if head.unit_norm else (files[0], path)
            raise FewshotError(
                f"The head of {one} works on features of unit norm and that of {other} does not, so their answers "
                "can't be compared.",
                "Adapt both with recipes of one kind: `fewshot inspect FILE` tells of each.",
            )
        # Or else a file of a few bytes could have a product of factors take any amount of memory.
        check_shapes(file.header.shapes, shapes, base.backbone, path)
    return read


def _header(files: Sequence[DeltaFile], delta: Delta, head: JoinedHead, how: ComposeSettings) -> Header:
    provenances = [file.header.provenance for file in files]
    banks = {provenance.bank for provenance in provenances}
    licence = agreed_licence(file.header.base.licence for file in files)
    settings = {"name": "compose", "rule": how.rule.rule, "scale": how.scale, "density": how.rule.density_kept}
    return Header(
        base=files[0].header.base.model_copy(update={"licence": licence}),
        classes=head.classes,
        unit_norm=head.head.unit_norm,
        shapes={name: tuple(change.shape) for name, change in delta.items()},
        touched={name: value for file in files for name, value in file.header.touched.items() if name in delta},
        recipe={"method": settings},
        provenance=Provenance(
            seed=how.seed,
            images=sum(provenance.images for provenance in provenances),
            data=hashlib.sha256(" ".join(provenance.data for provenance in provenances).encode()).hexdigest(),
            learned_from=tuple(sorted({image for provenance in provenances for image in provenance.learned_from})),
            expected_accuracy=Expected(
                mean=None, low=None, high=None, how="composed of others; `fewshot eval FILE FOLDER` measures it"
            ),
            versions=versions(),
            bank=banks.pop() if len(banks) == 1 else None,
            parents=tuple(file.digest for file in files),
            texts=_texts(provenances),
        ),
    )


def _texts(provenances: Sequence[Provenance]) -> dict[str, tuple[str, ...]]:
    """What a text tower was told of each class for any of the classifiers."""
    found: dict[str, dict[str, None]] = {}
    for provenance in provenances:
        for name, said in provenance.texts.items():
            found.setdefault(name, {}).update(dict.fromkeys(said))
    return {name: tuple(said) for name, said in found.items()}


def _narrowest(delta: Delta, kinds: Set[Values], seed: int) -> Values:
    """The kind of fewest bits that keeps every number of the delta as it is: float32, if none of these does."""
    for kind in sorted(kinds - {"float32"}, key=lambda kind: (BITS[kind], kind)):
        with suppress(FewshotError):  # more than float16 holds
            if is_same(as_stored(delta, kind, seed), delta):
                return kind
    return "float32"


def _narrowest_head(head: Head) -> HeadValues:
    for kind in HEAD_VALUES:
        with suppress(FewshotError):
            if torch.equal(head_as_stored(head, kind).weight, head.weight):
                return kind
    return "float32"


def _shared_classes(files: Sequence[Path], read: Sequence[DeltaFile], head: JoinedHead) -> tuple[SharedClass, ...]:
    """The classes that several files know: which, and the lowest cosine between their rows."""
    known = [(str(path), file.header.classes) for path, file in zip(files, read, strict=True)]
    return tuple(
        SharedClass(name, tuple(path for path, classes in known if name in classes), cosine)
        for name, cosine in head.cosines.items()
    )


def _merged_weights(met: Sequence[Overlap]) -> MergedWeights:
    """How many of the backbone's weights one file or several change, how far they agree, and where least."""
    shared, agreeing = sum(layer.shared for layer in met), sum(layer.agreeing for layer in met)
    mass, cancelled = sum(layer.mass for layer in met), sum(layer.cancelled for layer in met)
    worst = sorted((layer for layer in met if layer.cancelled > 0), key=lambda layer: -layer.cancelled)
    return MergedWeights(
        changed_by_one=sum(layer.alone for layer in met),
        changed_by_several=shared,
        signs_agree=agreeing / shared if shared else None,
        cancelled=cancelled / mass if mass else 0.0,
        disagreements=tuple(
            Disagreement(layer.parameter, layer.shared, layer.agreeing / layer.shared, layer.cancelled / layer.mass)
            for layer in worst[:MOST_LAYERS]
        ),
    )
