"""From a few labelled photos to a classifier in a small file.

>>> import fewshot_cli as fewshot
>>> classifier = fewshot.adapt("hawks/")      # doctest: +SKIP
>>> classifier.predict("new/")                # doctest: +SKIP
>>> classifier.save("hawks.fewshot")          # doctest: +SKIP

The functions are imported when they are first asked for: importing this takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewshot_cli.api.classifier import Classifier as Classifier
    from fewshot_cli.api.editing import add_class as add_class
    from fewshot_cli.api.editing import correct as correct
    from fewshot_cli.api.editing import next as next
    from fewshot_cli.api.editing import remove_class as remove_class
    from fewshot_cli.api.editing import rename_class as rename_class
    from fewshot_cli.api.functions import adapt as adapt
    from fewshot_cli.api.functions import compare as compare
    from fewshot_cli.api.functions import evaluate as evaluate
    from fewshot_cli.api.functions import export as export
    from fewshot_cli.api.functions import load as load
    from fewshot_cli.api.functions import meta_tune as meta_tune
    from fewshot_cli.api.functions import predict as predict
    from fewshot_cli.errors import FewshotError as FewshotError

__version__ = "0.1.0"

_LIE_IN = {
    "Classifier": "fewshot_cli.api.classifier",
    "FewshotError": "fewshot_cli.errors",
    **dict.fromkeys(
        ("adapt", "compare", "evaluate", "export", "load", "meta_tune", "predict"), "fewshot_cli.api.functions"
    ),
    **dict.fromkeys(("add_class", "correct", "next", "remove_class", "rename_class"), "fewshot_cli.api.editing"),
}

__all__ = [
    "Classifier",
    "FewshotError",
    "__version__",
    "adapt",
    "add_class",
    "compare",
    "correct",
    "evaluate",
    "export",
    "load",
    "meta_tune",
    "predict",
    "remove_class",
    "rename_class",
]
"""Without `next`, which `from fewshot_cli import *` would put in the place of Python's own."""


def __getattr__(name: str) -> Any:
    if name not in _LIE_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LIE_IN[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LIE_IN})
