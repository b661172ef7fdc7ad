"""What `export` wrote and how it was proved."""

from typing import Any

from rich.console import RenderableType

from fewshot_cli.reports.layout import facts, percent, size

SCALED = "timm's classifier knows no unit norm: labels are the same, probabilities too extreme; "
REMEDY = "divide the logits of an image by the norm of its features, or use --format onnx"
REMEDIES = {"peft": "the lines in the README divide the logits of an image by the norm of its features"}


def exported(report: dict[str, Any]) -> RenderableType:
    """The report of one export, for people."""
    return facts(
        ("wrote", f"{report['file']}, {size(report['bytes'])}, {report['format']}"),
        ("classes", str(len(report["classes"]))),
        ("base", f"{report['backbone']}, licence {report['licence']}"),
        (
            "proved",
            f"on {report['images']} images: logits differ by at most {report['max_abs_diff']:.2g}, "
            f"{percent(report['top1_agreement'])} of the answers agree",
        ),
        *([("beware", SCALED + REMEDIES.get(report["format"], REMEDY))] if report["unit_norm"] else []),
        ("use", report["use"]),
    )
