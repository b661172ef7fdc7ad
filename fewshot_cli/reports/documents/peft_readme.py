"""The README.md of an exported adapter: what it is, its classes, and how to use it without fewshot."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_cli import __version__
from fewshot_cli.reports.licences import is_timms_word, licence_metadata


@dataclass(frozen=True)
class AdapterFacts:
    """What the README of an adapter says. `create` is the Python expression that makes timm's model with its weights,
    `imports` what it needs; `preprocessing` has the fields of engine.preprocessing.Preprocessing.
    """

    name: str
    kind: str
    backbone: str
    base_model: str | None
    fingerprint: str
    licence: str
    classes: Sequence[str]
    preprocessing: dict[str, Any]
    unit_norm: bool
    whole: Sequence[str]
    imports: Sequence[str]
    create: str
    weights_file: str | None


def peft_readme(about: AdapterFacts) -> str:
    """The README as Markdown, with the header that the Hugging Face hub reads."""
    base = about.base_model if is_timms_word(about.licence) else None  # other weights than the hub's
    facts: dict[str, Any] = {"base_model": base, **licence_metadata(about.licence), "library_name": "peft"}
    facts |= {"pipeline_tag": "image-classification", "tags": ["timm", "few-shot", "fewshot-cli"]}
    header = "\n".join(f"{key}: {json.dumps(value)}" for key, value in facts.items() if value)
    return f"""---
{header}
---

# {about.name}

A {about.kind} adapter of `{about.backbone}` (timm) for PEFT that tells {len(about.classes)} classes apart, exported by
fewshot-cli {__version__} from a delta file, and proved to give the same logits. Licence of the base: {about.licence}.
{_notes(about)}
The weights it belongs to have the fingerprint `{about.fingerprint}`;
`fewshot import` refuses others. `fewshot.json` has the classes, the preprocessing, the recipe, and where the
classifier comes from.

```bash
pip install timm 'peft>=0.17'
```

```python
{_snippet(about)}
```

`fewshot import {about.name} -o FILE` makes the delta file of it again.
"""


def _notes(about: AdapterFacts) -> str:
    notes = ""
    if about.weights_file:
        notes += (
            f"\nThe base's weights were read from the file `{about.weights_file}`; leave `pretrained_cfg_overlay` out "
            "where they are timm's own.\n"
        )
    if about.whole:
        parts = ", ".join(f"`{part}`" for part in about.whole)
        notes += f"\nWhat changes in {parts} {about.kind} can't express: it comes whole, in `modules_to_save`.\n"
    if about.unit_norm:
        notes += (
            "\nThe classifier was learned on features of unit norm, which timm's linear layer knows nothing of: labels "
            "are the same,\nand the logits of an image are to be divided by the norm of its features, as below, or "
            "probabilities are too extreme.\n"
        )
    return notes


def _snippet(about: AdapterFacts) -> str:
    facts = about.preprocessing
    given = {"interpolation": facts["interpolation"], "mean": tuple(facts["mean"]), "std": tuple(facts["std"])}
    given |= {"crop_pct": facts["crop_fraction"], "crop_mode": facts["crop_mode"]}
    options = "".join(f",\n    {name}={value!r}" for name, value in given.items())
    lines = [
        "import timm",
        "import torch",
        *about.imports,
        "from peft import PeftModel",
        "from PIL import Image, ImageOps",
        "",
        f"base = {about.create}",
        f"model = PeftModel.from_pretrained(base, {about.name!r}).eval()",
        f"transform = timm.data.create_transform(\n    {(3, *facts['size'])!r}{options},\n)",
        'photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
        "with torch.no_grad():",
        "    images = transform(photo).unsqueeze(0)",
        "    logits = model(images)",
    ]
    if about.unit_norm:
        lines.append("    features = model.forward_head(model.forward_features(images), pre_logits=True)")
        lines.append("    logits = logits / features.norm(dim=1, keepdim=True)")
    lines.append(f"classes = {list(about.classes)!r}")
    lines.append("print(classes[int(logits.argmax())], float(logits.softmax(1).max()))")
    return "\n".join(lines)
