"""Looks for a delta file that makes the reader do anything but read it or refuse it in a sentence.

    pip install 'fewshot-cli[fuzz]'                  (Linux on x86-64: atheris has wheels for no other)
    python benchmarks/fuzz_delta.py [--seconds 120] [--keep FOLDER]

Begins from tests/formats/delta/corpus. Half of the inputs are files as they come; the other half are given a right
list of tensors and a right hash, so that what lies behind these is reached too. What it finds is left in FOLDER, to be
put into the corpus as `bad-WHAT.fewshot` (or `good-`), which the tests read.
"""

import argparse
import json
import struct
import sys
import tempfile
import zlib
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1] / "tests" / "formats" / "delta" / "corpus"


def main() -> None:
    """Fuzzes; ends with an error at the first input that does anything else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    given = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: `pip install 'fewshot-cli[fuzz]'` (Linux on x86-64).")
    given.keep.mkdir(exist_ok=True)
    with atheris.instrument_imports(include=["fewshot_cli.formats"]):
        from fewshot_cli.errors import FewshotError
        from fewshot_cli.formats import container as signed
        from fewshot_cli.formats.coding import position_codec as codec
        from fewshot_cli.formats.delta import file as delta_file

    path = Path(tempfile.mkdtemp()) / "x.fewshot"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = delta_file.read_delta_file(path)
        except FewshotError as error:
            assert "\n" not in error.problem and error.hint
            return
        stored = found.stored
        delta_file.write_delta_file(path, found.header, found.delta, found.head, stored.values, stored.head)
        assert len(delta_file.read_delta_file(path).delta) == len(found.delta)

    def decode(content: bytes) -> None:
        try:
            positions = codec.positions_in(summed(content[1:]), 1 + content[0] * 97, 50_000)
        except codec.BadCode:
            return
        assert (positions[1:] > positions[:-1]).all()

    def one_input(content: bytes) -> None:
        if len(content) > 20 and content[0] % 4 == 3:
            decode(content[1:])
        else:
            read(content[1:] if content[:1] == b"\0" else resigned(content[1:], signed) or content)

    folders = [str(given.keep), str(seeds())]
    limits = ["-timeout=10", "-rss_limit_mb=3000", "-max_len=60000", f"-artifact_prefix={given.keep}/"]
    atheris.Setup([sys.argv[0], *folders, f"-max_total_time={given.seconds}", *limits], one_input)
    atheris.Fuzz()


def seeds() -> Path:
    """A folder with every file of the corpus, to be read as it is and signed again, and with its sets of positions."""
    folder = Path(tempfile.mkdtemp())
    for path in CORPUS.glob("*.fewshot"):
        content = path.read_bytes()
        for first in (b"\0", b"\1"):
            (folder / f"{path.stem}-{first[0]}").write_bytes(first + content)
        for i, code in enumerate(codes_in(content)):
            (folder / f"{path.stem}-code-{i}").write_bytes(b"\3\x10" + code[4:])
    return folder


def codes_in(content: bytes) -> list[bytes]:
    """The sets of positions in a file, if it lists them."""
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        listed = json.loads(content[8:start])
        offsets = [listed[name]["data_offsets"] for name in listed if name.startswith("positions/")]
        return [content[start + first : start + last] for first, last in offsets]
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return []


def summed(rest: bytes) -> bytes:
    """A code of positions with a right checksum."""
    return struct.pack("<I", zlib.crc32(rest)) + rest


def resigned(content: bytes, signed: object) -> bytes | None:
    """The file with its hash put right; None where it has no place for one."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
        start = 8 + int.from_bytes(content[:8], "little")
        listed = json.loads(content[8:start])
        facts = listed["__metadata__"]
        for name, values in tensors.items():  # and that of each set of positions
            if name.startswith("positions/") and values.numel() > 14 and values.element_size() == 1:
                first, last = (start + offset for offset in listed[name]["data_offsets"])
                content = content[:first] + summed(content[first + 4 : last]) + content[last:]
        facts["sha256"] = signed._digest(facts["header"], load(content))  # type: ignore[attr-defined]
        text = json.dumps(listed).encode()
        return len(text).to_bytes(8, "little") + text + content[start:]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return None


if __name__ == "__main__":
    main()
