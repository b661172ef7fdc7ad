"""What open_clip knows of two-tower models: shapes, weights, activations, tokenizers. Only here is it imported.

Pictures are answered without it: the image tower of a plain vision transformer is timm's, and the text tower is built
only where a text is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.model.clip_names import BIAS, PREFIX, SCALE, TEXT, VISUAL, canonical, resized_positions
from fewshot_cli.engine.model.timm_models import clip_vision_transformer
from fewshot_cli.engine.model.towers import Towers, TwoTowers, UnbuiltParameters
from fewshot_cli.engine.params import Params
from fewshot_cli.errors import FewshotError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
PLAIN = frozenset(("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"))
"""What open_clip says of a vision transformer that is as OpenAI's, and so as timm's."""
CROPS = {"shortest": "center", "squash": "squash", "longest": "border"}
LICENCES = {"openai": "mit", "webli": "apache-2.0", "metaclip": "cc-by-nc-4.0", "dfn": "apple-ascl"}
"""Of the weights whose tag begins so, as their makers state them."""
_DUMMY = {"image_size": 8, "patch_size": 8, "width": 64, "layers": 1}


@dataclass(frozen=True)
class Description:
    """A two-tower model as open_clip has it: the arguments of its class, and how it prepares pictures.

    `tag` names its weights, which lie in the `repository` of the hub; both are "" where a file came with the words.
    `tokenizer_files` is the folder of a tokenizer that came with it.
    """

    name: str
    model: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    tag: str = ""
    repository: str = ""
    tokenizer_files: str = ""

    @property
    def licence(self) -> str:
        """What the makers of weights of this tag state, else "unknown"."""
        return next((licence for start, licence in LICENCES.items() if self.tag.startswith(start)), "unknown")


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


def described_beside(name: str, words: Mapping[str, Any]) -> Description:
    """What an open_clip_config.json says. Raises FewshotError where it is none."""
    model = words.get("model_cfg")
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
        raise FewshotError(
            "The open_clip_config.json beside the weights does not describe a model.",
            "Write it with open_clip: {'model_cfg': {...}, 'preprocess_cfg': {...}}.",
        )
    return Description(name, model, words.get("preprocess_cfg") or {})


def preprocessing_of(about: Description, image_size: int | None = None) -> Preprocessing:
    """How the model wants its pictures."""
    size = image_size or about.model["vision_cfg"].get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    given = about.preprocess
    filter_ = given.get("interpolation", "bicubic")
    return Preprocessing(
        (height, width),
        1.0,
        CROPS[given.get("resize_mode", "shortest")],  # type: ignore[arg-type]
        "bicubic" if filter_ == "random" else filter_,
        tuple(given.get("mean") or OPENAI_MEAN),
        tuple(given.get("std") or OPENAI_STD),
    )


def build_towers(
    about: Description,
    weights: Mapping[str, Tensor],
    image_size: int | None = None,
    device: torch.device | None = None,
    checked: bool = True,
) -> TwoTowers:
    """The two towers with these weights, in any spelling that `canonical` reads.

    Raises FewshotError for weights of another model, or a size that the model can't take. The text tower is only
    compared where they are `checked`, since that takes open_clip.
    """
    source = canonical(weights)
    about = replace(about, model=said_plainly(about.model))
    preprocessing = preprocessing_of(about, image_size)
    text = {name.removeprefix(TEXT): values for name, values in source.items() if name.startswith(TEXT)}
    if checked:
        _check_text(about, text)
    visual = _with_weights(about, source, preprocessing.size)
    module = Towers(visual, UnbuiltParameters(text), int(about.model["embed_dim"]))
    module = module.to(device or torch.device("cpu")).eval().requires_grad_(False)
    scale = source.get(SCALE, torch.tensor(100.0).log()).exp()
    bias = source.get(BIAS, torch.zeros(()))
    return TwoTowers(
        about.name,
        module,
        preprocessing,
        module.num_features,
        source,
        about.licence,
        model=about.model,
        repository=about.repository,
        tokenizer_files=about.tokenizer_files,
        scale=float(scale),
        bias=float(bias),
    )


def said_plainly(model: Mapping[str, Any]) -> dict[str, Any]:
    """The words without those that say nothing, so that one model has one description."""
    return {key: value for key, value in model.items() if key != "custom_text" and value not in (None, False)}


def _with_weights(about: Description, source: Params, size: tuple[int, int]) -> nn.Module:
    """The image tower with its weights."""
    wanted = {name.removeprefix(VISUAL): values for name, values in source.items() if name.startswith(VISUAL)}
    tower = _image_tower(about, size)
    if "pos_embed" in wanted and is_plain(about.model):
        patch = int(about.model["vision_cfg"]["patch_size"])
        grid = (size[0] // patch, size[1] // patch)
        if wanted["pos_embed"].shape[1] != 1 + grid[0] * grid[1]:
            wanted = wanted | {"pos_embed": resized_positions(wanted["pos_embed"], grid)}
    try:
        tower.load_state_dict(wanted, strict=True, assign=True)
    except RuntimeError as error:
        raise _not_of(about, " ".join(str(error).split())[:300]) from None
    return tower


def _check_text(about: Description, text: Mapping[str, Tensor]) -> None:
    wanted = {name: tuple(values.shape) for name, values in text_tower(about.model).state_dict().items()}
    found = {name: tuple(values.shape) for name, values in text.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise _not_of(about, f"{TEXT}{name} is {found.get(name)}, not {wanted.get(name)}")


def _not_of(about: Description, reason: str) -> FewshotError:
    return FewshotError(
        f"These weights are not of {about.name}: {reason}", "Give --backbone the name of the model they belong to."
    )


def parameter_shapes(about: Description, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that a delta on the model can be for; its weights are not needed."""
    visual, text = _image_tower(about, size), text_tower(about.model)
    return {
        start + name: tuple(values.shape)
        for start, tower in ((VISUAL, visual), (TEXT, text))
        for name, values in tower.named_parameters()
    }


def is_plain(model: Mapping[str, Any]) -> bool:
    """Whether the image tower is a vision transformer as OpenAI's, which timm has, too."""
    vision = model["vision_cfg"]
    return set(vision) <= PLAIN and isinstance(vision.get("layers"), int)


def _image_tower(about: Description, size: tuple[int, int]) -> nn.Module:
    """The image tower without values; timm's where it can be, else open_clip's own, at its own size."""
    model, vision = about.model, about.model["vision_cfg"]
    if is_plain(model):
        patch = int(vision["patch_size"])
        if min(size) < patch or size[0] % patch or size[1] % patch:
            raise FewshotError(
                f"{about.name} can't take images of {size[0]} pixels.", f"Give --image-size a multiple of {patch}."
            )
        return clip_vision_transformer(**timm_options(model, size), num_classes=int(model["embed_dim"]))
    own = vision.get("image_size", 224)
    if size != ((own, own) if isinstance(own, int) else tuple(own)):
        raise FewshotError(
            f"{about.name} can't take images of {size[0]} pixels; it takes {own}.", "Leave --image-size out."
        )
    visual = {**vision, "timm_model_pretrained": False} if "timm_model_name" in vision else vision
    return _made({**model, "vision_cfg": visual}).visual  # type: ignore[no-any-return]


def timm_options(model: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """What timm must be told to make a plain model's image tower out of its CLIP_TOWER."""
    vision = model["vision_cfg"]
    width = int(vision["width"])
    return {
        "img_size": size,
        "patch_size": int(vision["patch_size"]),
        "embed_dim": width,
        "depth": int(vision["layers"]),
        "num_heads": width // int(vision.get("head_width", 64)),
        "mlp_ratio": float(vision.get("mlp_ratio", 4.0)),
        "act_layer": "quick_gelu" if model.get("quick_gelu") else "gelu",
    }


def text_tower(model: Mapping[str, Any]) -> nn.Module:
    """The text tower of the model, without values for its parameters."""
    if "hf_model_name" in model["text_cfg"]:
        raise FewshotError(
            "The text tower of this model is one of Hugging Face's transformers, which can't be built here.",
            "Use a model whose text tower is open_clip's own.",
        )
    with torch.device("meta"):
        tower: nn.Module = _made({**model, "vision_cfg": _DUMMY}).text
    if getattr(tower, "attn_mask", None) is not None:
        tower.attn_mask = tower.build_causal_mask()  # type: ignore[operator]
    return tower.eval().requires_grad_(False)


def _made(model: Mapping[str, Any]) -> Any:
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


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError:
        raise FewshotError(
            "Backbones called clip:... need open_clip, which is not installed.", "pip install 'fewshot-cli[clip]'"
        ) from None
    return open_clip  # type: ignore[no-any-return]
