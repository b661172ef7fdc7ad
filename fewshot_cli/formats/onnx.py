"""ONNX files: written from a backbone and a head, and run by onnxruntime. Needs the extra `onnx`."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.errors import FewshotError

MOST_WORDS = 160
"""Letters of an exporter's error that are told."""


class ExportedClassifier(nn.Module):
    """Normalised images `(n, 3, height, width)` to logits `(n, way)`."""

    def __init__(self, features: nn.Module, head: Head) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("weight", head.weight)
        self.register_buffer("bias", head.bias)
        self.unit_norm = head.unit_norm

    def forward(self, images: Tensor) -> Tensor:
        return Head(self.get_buffer("weight"), self.get_buffer("bias"), self.unit_norm).logits(self.features(images))


def write_onnx(path: Path, classifier: ExportedClassifier, size: tuple[int, int], facts: Mapping[str, str]) -> None:
    """Writes the classifier with one input `images`, of any batch size, one output `logits`, and `facts` as metadata.

    Raises FewshotError where the packages for it are not installed.
    """
    _check_installed()
    import onnx

    # Two images, since the exporter takes a dimension of one for a constant.
    example = torch.zeros(2, 3, *size, device=classifier.get_buffer("weight").device)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")  # of the exporter about itself; what it wrote is proved afterwards
        try:
            program = torch.onnx.export(
                classifier.eval(),
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            )
        except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise _no_onnx("PyTorch can't export this network to ONNX", error) from None
    assert program is not None  # as documented for dynamo=True
    model = program.model_proto
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save_model(model, str(path))


def onnx_session(path: Path) -> Callable[[Tensor], Tensor]:
    """Logits `(n, way)` of normalised images, as onnxruntime computes them on the CPU from the file.

    Raises FewshotError, here or when asked, where onnxruntime can't run the graph.
    """
    _check_installed()
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    refusals = (
        errors.Fail,
        errors.InvalidGraph,
        errors.InvalidArgument,
        errors.NotImplemented,
        errors.RuntimeException,
    )
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    except refusals as error:
        raise _no_onnx("onnxruntime can't load what PyTorch exported of this network", error) from None

    def logits(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        except refusals as error:
            raise _no_onnx(f"onnxruntime can't run the exported network on {len(images)} images", error) from None

    return logits


def _no_onnx(problem: str, error: Exception) -> FewshotError:
    return FewshotError(
        f"{problem}: {_reason(error)}",
        "Use --format safetensors, the merged weights for timm; `fewshot predict` works in any case.",
    )


def _reason(error: Exception) -> str:
    """The first words of the error at the root as a sentence, since the exporter's own are advice for developers."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.rstrip(". ") + "." if len(line) < MOST_WORDS else line[:MOST_WORDS].rstrip(". ") + " ..."


def _check_installed() -> None:
    missing = [package for package in ("onnx", "onnxscript", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise FewshotError(
            f"ONNX needs packages that are not installed: {', '.join(missing)}.",
            "Install them: pip install 'fewshot-cli[onnx]'",
        )


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keeps these loggers from saying anything short of an error."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
