"""The image tower of a two-tower model as a classifier of timm, with projection and class vectors in one."""

from torch import Tensor, nn

from fewshot_cli.engine.model.backbone import state_with
from fewshot_cli.engine.model.clip.description import is_plain, timm_options
from fewshot_cli.engine.model.clip.names import VISUAL
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.model.timm_models import CLIP_TOWER, clip_classifier
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.tensors import unshared
from fewshot_cli.jobs.models.classifiers import Loaded


def check_towers(format_: str, backbone: TwoTowers) -> None:
    """Raises FewshotError for a form in which the image tower can't be written."""
    if format_ == "peft":
        raise FewshotError(
            f"{backbone.name} has two towers, which no adapter of PEFT for timm is for.",
            "Use --format safetensors or --format onnx.",
        )
    if not is_plain(backbone.model):
        raise FewshotError(
            f"The image tower of {backbone.name} is open_clip's own, and has no classifier in timm.",
            "Use --format onnx.",
        )


def towers_as_timm(model: Loaded) -> tuple[nn.Module, dict[str, Tensor]]:
    """timm's own model, and the weights with which it is the classifier.

    The projection between the two is linear, so that the class vectors can be taken through it.
    """
    state = state_with(model.backbone, model.model.weights)
    visual = {name.removeprefix(VISUAL): values.cpu() for name, values in state.items() if name.startswith(VISUAL)}
    projection = visual["head.weight"]
    head = {"head.weight": model.timm_head.weight.cpu() @ projection, "head.bias": model.timm_head.bias.cpu()}
    return _plain(model), unshared(visual | head)


def timm_call(backbone: TwoTowers, way: int) -> str:
    """The call that makes the model which an export is loaded into."""
    options = {**timm_options(backbone.model, backbone.preprocessing.size), "num_classes": way}
    return f"timm.create_model('{CLIP_TOWER}', {', '.join(f'{name}={value!r}' for name, value in options.items())})"


def _plain(model: Loaded) -> nn.Module:
    assert isinstance(model.backbone, TwoTowers)
    options = timm_options(model.backbone.model, model.backbone.preprocessing.size)
    return clip_classifier(**options, num_classes=len(model.classes))
