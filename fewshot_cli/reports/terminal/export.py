"""What `export` wrote and how it was proved."""

from rich.console import RenderableType

from fewshot_cli.reports.layout import facts, percent, size
from fewshot_cli.results import ExportResult

SCALED = "timm's classifier knows no unit norm: labels are the same, probabilities too extreme; "
REMEDY = "divide the logits of an image by the norm of its features, or use --format onnx"
REMEDIES = {"peft": "the lines in the README divide the logits of an image by the norm of its features"}


def exported(result: ExportResult) -> RenderableType:
    """The report of one export, for people."""
    return facts(
        ("wrote", f"{result.file}, {size(result.bytes)}, {result.format}"),
        ("classes", str(len(result.classes))),
        ("base", f"{result.backbone}, licence {result.licence}"),
        (
            "proved",
            f"on {result.images} images: logits differ by at most {result.max_abs_diff:.2g}, "
            f"{percent(result.top1_agreement)} of the answers agree",
        ),
        *([("beware", SCALED + REMEDIES.get(result.format, REMEDY))] if result.unit_norm else []),
        ("use", result.use),
    )
