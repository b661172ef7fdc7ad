"""The backbones there are."""

from fewshot_cli import __version__
from fewshot_cli.engine.backbones import list_backbones
from fewshot_cli.jobs.record import Report
from fewshot_cli.recipes import DEFAULT_BACKBONE


def backbones(pattern: str) -> Report:
    """timm's pre-trained models whose names match the pattern."""
    return {
        "command": "backbones",
        "version": __version__,
        "default": DEFAULT_BACKBONE,
        "backbones": list_backbones(pattern),
    }
