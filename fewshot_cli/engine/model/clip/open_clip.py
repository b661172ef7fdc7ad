"""What open_clip knows of two-tower models: shapes, weights, activations, tokenizers. Only here is it imported.

Pictures are answered without it: the image tower of a plain vision transformer is timm's, and the text tower is built
only where a text is read.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_cli.engine.model.clip.description import (
    Description,
    said_plainly,
)
from fewshot_cli.engine.model.clip.names import PREFIX
from fewshot_cli.errors import FewshotError

_DUMMY = {"image_size": 8, "patch_size": 8, "width": 64, "layers": 1}


def described(name: str) -> Description:
    """What open_clip has under "clip:MODEL/TAG".

    The tag must be given, since the activation, the preprocessing and the weights are its own.
    Raises FewshotError for a model or tag that open_clip lacks, or without a tag.
    """
    open_clip = _open_clip()
    which, _, tag = name.removeprefix(PREFIX).partition("/")
    model = open_clip.get_model_config(which)
    if model is None:
        near = get_close_matches(which, open_clip.list_models(), n=3)
        raise FewshotError(
            f"open_clip has no model called '{which}'.",
            (f"Did you mean {' or '.join(near)}? " if near else "")
            + "Its own names are meant, such as ViT-B-16/openai.",
        )
    tags = open_clip.list_pretrained_tags_by_model(which)
    facts = open_clip.get_pretrained_cfg(which, tag) if tag else {}
    if not facts:
        said = (
            f"open_clip has no weights '{tag}' of {which}." if tag else f"{name} does not say which weights are meant."
        )
        raise FewshotError(
            said,
            f"Give --backbone clip:{which}/TAG with one of {', '.join(tags)}: activation and preprocessing follow from "
            "it. For weights of your own put open_clip_config.json beside them.",
        )
    repository = str(facts.get("hf_hub", "")).strip("/")
    return Description(name, {**model, "quick_gelu": bool(facts.get("quick_gelu"))}, facts, tag, repository)


def text_tower(model: Mapping[str, Any]) -> nn.Module:
    """The text tower of the model, without values for its parameters."""
    if "hf_model_name" in model["text_cfg"]:
        raise FewshotError(
            "The text tower of this model is one of Hugging Face's transformers, which can't be built here.",
            "Use a model whose text tower is open_clip's own.",
        )
    with torch.device("meta"):
        tower: nn.Module = open_clip_model({**model, "vision_cfg": _DUMMY}).text
    if getattr(tower, "attn_mask", None) is not None:
        tower.attn_mask = tower.build_causal_mask()  # type: ignore[operator]
    return tower.eval().requires_grad_(False)


def open_clip_model(model: Mapping[str, Any]) -> Any:
    """open_clip's class with both towers under names of their own. Raises FewshotError for words that it lacks."""
    if "multimodal_cfg" in model:
        raise FewshotError("This model is a CoCa, which also writes texts.", "Use a model of two towers.")
    try:
        return _open_clip().CustomTextCLIP(**said_plainly(model))
    except (TypeError, RuntimeError, AssertionError) as error:
        raise FewshotError(f"open_clip can't build this model: {error}", "Check open_clip_config.json.") from None


def tokenizer(model: Mapping[str, Any], files: str = "") -> Callable[[Sequence[str]], Tensor]:
    """From texts to ids `(n, length)`; `files` is the folder of a tokenizer that lies beside the weights.

    Raises FewshotError for a text that is longer than the model reads, or a tokenizer that is not to be had.
    """
    text = model["text_cfg"]
    length = int(text.get("context_length", 77))
    own = {**text.get("tokenizer_kwargs", {})}
    tokenizers = _open_clip().tokenizer
    where = files or text.get("hf_tokenizer_name", "")
    if where:
        try:
            reader = tokenizers.HFTokenizer(where, context_length=length, **own)
        except (OSError, ImportError, ValueError) as error:
            raise FewshotError(
                f"The tokenizer {where} is not to be had: {' '.join(str(error).split())[:200]}",
                "Put tokenizer.json and tokenizer_config.json beside the weights, and pip install transformers.",
            ) from None
        return lambda texts: reader(list(texts))
    plain = tokenizers.SimpleTokenizer(context_length=length, **own)
    if int(text.get("vocab_size", 49408)) < plain.vocab_size:
        raise FewshotError(
            f"This text tower knows {text['vocab_size']} tokens; CLIP's tokenizer has {plain.vocab_size}.",
            "Use a model with CLIP's vocabulary.",
        )

    def tokens(texts: Sequence[str]) -> Tensor:
        for one in texts:
            if (count := len(plain.encode(one)) + 2) > length:
                raise FewshotError(
                    f"The text '{one[:80]}' has {count} tokens; the model reads {length}.", "Shorten it."
                )
        return plain(list(texts))  # type: ignore[no-any-return]

    return tokens


def imagenet_templates() -> tuple[str, ...]:
    """The 80 sentences that OpenAI puts names of ImageNet's classes into (Radford et al., 2021, arXiv:2103.00020)."""
    return tuple(template("{}") for template in _open_clip().OPENAI_IMAGENET_TEMPLATES)


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError:
        raise FewshotError(
            "Backbones called clip:... need open_clip, which is not installed.", "pip install 'fewshot-cli[clip]'"
        ) from None
    return open_clip  # type: ignore[no-any-return]
