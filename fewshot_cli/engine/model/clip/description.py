"""What a two-tower model is called and made of, in open_clip's words; open_clip itself is not needed to read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.errors import FewshotError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
PLAIN = frozenset(("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"))
"""What open_clip says of a vision transformer that is as OpenAI's, and so as timm's."""
PLAIN_TEXT = frozenset(
    (
        *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pool_type", "no_causal_mask"),
        *("pad_id", "eos_id", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "act_kwargs"),
        "output_tokens",
    )
)
"""What open_clip says of a text tower whose weights are as OpenAI's, whatever it computes with them."""
CROPS = {"shortest": "center", "squash": "squash", "longest": "border"}
LICENCES = {"openai": "mit", "webli": "apache-2.0", "metaclip": "cc-by-nc-4.0", "dfn": "apple-ascl"}
"""Of the weights whose tag begins so, as their makers state them."""


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


def said_plainly(model: Mapping[str, Any]) -> dict[str, Any]:
    """The words without those that say nothing, so that one model has one description."""
    return {key: value for key, value in model.items() if key != "custom_text" and value not in (None, False)}


def is_plain(model: Mapping[str, Any]) -> bool:
    """Whether the image tower is a vision transformer as OpenAI's, which timm has, too."""
    vision = model["vision_cfg"]
    return set(vision) <= PLAIN and isinstance(vision.get("layers"), int)


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


def plain_text_shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """The shape of each weight of a text tower as OpenAI's, by open_clip's name; None of any other."""
    text = {key: value for key, value in model["text_cfg"].items() if value not in (None, False)}
    if set(text) - PLAIN_TEXT:
        return None
    width, length = int(text.get("width", 512)), int(text.get("context_length", 77))
    wide = int(width * float(text.get("mlp_ratio", 4.0)))
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (int(text.get("vocab_size", 49408)), width),
        "positional_embedding": (length, width),
        "text_projection": (width, int(model["embed_dim"])),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    block = {"attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width)}
    block |= {"mlp.c_fc.": (wide, width), "mlp.c_proj.": (width, wide)}
    for layer in range(int(text.get("layers", 12))):
        start = f"transformer.resblocks.{layer}."
        for name, shape in block.items():
            shapes |= {f"{start}{name}weight": shape, f"{start}{name}bias": shape[:1]}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{start}{norm}.weight": (width,), f"{start}{norm}.bias": (width,)}
    return shapes
