"""What timm says of its models, by their names: which there are, and where their weights come from."""

import timm

from fewshot_cli.engine.timm_spelling import unknown


def check_name(name: str) -> None:
    """Raises FewshotError with the nearest names unless timm has a model of this name."""
    if not timm.is_model(name):
        raise unknown(name, timm.list_models())


def hub_repository(name: str) -> str | None:
    """Where on the Hugging Face hub timm keeps this model's weights, as "owner/name"; None where it has none there."""
    check_name(name)
    facts = timm.models.get_pretrained_cfg(name)
    return facts.hf_hub_id if facts else None


def licence_of(name: str) -> str:
    """What timm states of the licence of its own weights of this model; "unknown" where it states nothing."""
    check_name(name)
    return str(getattr(timm.models.get_pretrained_cfg(name), "license", None) or "unknown")


def list_backbones(pattern: str = "") -> list[str]:
    """timm's pre-trained models whose name contains `pattern`; * and ? match as in file names."""
    return [str(name) for name in timm.list_models(f"*{pattern}*", pretrained=True)]


def own_size(name: str) -> int:
    """The side of the images that timm's weights of this model were trained on."""
    facts = timm.models.get_pretrained_cfg(name)
    return int(facts.input_size[-1]) if facts else 224
