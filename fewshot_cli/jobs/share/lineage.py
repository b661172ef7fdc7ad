"""Where a delta file or a bank comes from: its bank, the files it was composed of, and where these come from.

A file names its bank and its parents by their digests. What lies beside it under such a digest is read, and told too.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import BankHeader, read_bank_header
from fewshot_cli.formats.delta.file import BaseFacts, DeltaFile, read_any_delta_file
from fewshot_cli.formats.kinds import KINDS, metadata_of
from fewshot_cli.results import Ancestor, AncestralBase, BankAncestor, DeltaAncestor

AncestorType = TypeVar("AncestorType", bound=Ancestor)

SUFFIXES = (".fewshot", ".bank", ".safetensors")
"""Of the files that are looked at: what `fewshot` is told to write usually ends so."""
MOST_NEIGHBOURS = 1000
MOST_GENERATIONS = 16


class Ancestors:
    """What can be told of the files that `path` comes from, by those beside it and the banks that are given.

    Only headers are read, until one claims a digest that is asked for; then its content must have that digest. A
    neighbour that can't be read is none. Raises FewshotError for a given bank that can't be.
    """

    def __init__(self, path: Path, banks: Sequence[Path] = ()) -> None:
        self.path = path
        self.given = {read_bank_header(bank)[1]: bank for bank in banks}
        self.files: dict[str, str] = {}

    def of_delta(self, file: DeltaFile) -> DeltaAncestor:
        """The chain of the delta file at `path`. Raises FewshotError where a given bank is none of it."""
        return self._whole(file.header.base, self._delta(self.path, file, 0))

    def of_bank(self, header: BankHeader, digest: str) -> BankAncestor:
        """The chain of the bank at `path`. Raises FewshotError where a given bank is none of it."""
        return self._whole(header.base, self._bank(self.path, header, digest, 0))

    def _whole(self, base: BaseFacts, link: AncestorType) -> AncestorType:
        for digest, bank in self.given.items():
            if digest not in self.files:
                raise FewshotError(
                    f"{bank} is not a bank that {self.path} comes from.",
                    "Without --bank the digests of those that it comes from are shown.",
                )
        return replace(link, base=AncestralBase(base.backbone, base.fingerprint, base.licence))

    @cached_property
    def _claims(self) -> dict[str, list[Path]]:
        """The given banks and the files beside `path`, by the digests that they claim to have."""
        try:
            beside = (path for path in self.path.parent.iterdir() if path.suffix in SUFFIXES and path.is_file())
            paths = sorted(islice(beside, MOST_NEIGHBOURS))
        except OSError:
            paths = []
        claims = {digest: [bank] for digest, bank in self.given.items()}
        for path in paths:
            found = metadata_of(path)
            if found.get("format") in KINDS:
                claims.setdefault(found.get("sha256", ""), []).append(path)
        return claims

    def _delta(self, path: Path, file: DeltaFile, generation: int) -> DeltaAncestor:
        provenance = file.header.provenance
        self.files[file.digest] = str(path)
        return DeltaAncestor(
            sha256=file.digest,
            file=str(path),
            method=file.header.method,
            classes=file.header.classes,
            recipe=file.header.recipe,
            **provenance.model_dump(include={"seed", "images", "data", "versions"}),
            bank=self._bank_of(provenance.bank, generation + 1),
            parents=tuple(self._parent_of(digest, generation + 1) for digest in provenance.parents),
        )

    def _bank(self, path: Path, header: BankHeader, digest: str, generation: int) -> BankAncestor:
        self.files[digest] = str(path)
        return BankAncestor(
            sha256=digest,
            file=str(path),
            method=header.method,
            recipe=header.recipe,
            **header.provenance.model_dump(include={"seed", "episodes", "data", "validation", "versions"}),
            bank=self._bank_of(header.provenance.parent, generation + 1),
        )

    def _parent_of(self, digest: str, generation: int) -> Ancestor:
        for path in self._worth_reading(digest, generation):
            with suppress(FewshotError):
                return self._delta(path, read_any_delta_file(path), generation)
        return self._unread("delta", digest)

    def _bank_of(self, digest: str | None, generation: int) -> Ancestor | None:
        if digest is None:
            return None
        for path in self._worth_reading(digest, generation):
            with suppress(FewshotError):
                return self._bank(path, *read_bank_header(path), generation)
        return self._unread("bank", digest)

    def _worth_reading(self, digest: str, generation: int) -> list[Path]:
        """Where the file may be, of which nothing has been told yet."""
        return self._claims.get(digest, []) if digest not in self.files and generation <= MOST_GENERATIONS else []

    def _unread(self, kind: str, digest: str) -> Ancestor:
        """What is told of a file that isn't here, or was told of before."""
        return Ancestor(kind=kind, sha256=digest, file=self.files.get(digest))
