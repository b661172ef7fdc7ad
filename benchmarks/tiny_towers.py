"""Two tiny towers, trained together on drawn pictures and their names, and shifted drawings to ask them about."""

import json
import math
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from fewshot_cli.images.drawing import CLASSES, draw

SIZE = 32
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIZE, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
MEAN = STD = 0.5
SCALE = 100.0
"""What cosines are multiplied by from the start, where CLIP's ends, as the methods' own settings suppose."""
TEMPLATES = ("a photo of a {}.", "a drawing of a {}.", "a small picture of a {}.")
FIRST_SEED = 1_000_000
"""Drawings with seeds from here on are for pre-training, those below for the comparison."""
BATCH = 96


def drawings(first_seed: int, per_class: int) -> Tensor:
    """Drawings `(classes, per_class, 3, 32, 32)` uint8 of all classes, with this seed and those after it."""
    seeds = range(first_seed, first_seed + per_class)
    found = [[np.asarray(draw(name, seed, SIZE)) for seed in seeds] for name in CLASSES]
    return torch.from_numpy(np.array(found)).permute(0, 1, 4, 2, 3).contiguous()


# --- the task's drawings, and shifted ones --------------------------------------------------------------------------


def negatives(pictures: Tensor) -> Tensor:
    """The drawings of the task: dark paper and light ink, with red, green and blue in another order."""
    return 255 - pictures[:, [1, 2, 0]]


def textured(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Under a grating of stripes, of a random direction and a period of four to eight pixels."""
    n, side = len(pictures), pictures.shape[-1]
    angle = torch.rand(n, generator=rng) * math.pi
    period = 4 + 4 * torch.rand(n, generator=rng)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    along = x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]
    stripes = torch.sin(2 * math.pi * along / period[:, None, None])
    return _as_bytes(pictures * (0.65 + 0.35 * stripes[:, None]))


def noisy(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """With Gaussian noise of 50 grey levels in each channel of each pixel."""
    return _as_bytes(pictures + 50 * torch.randn(pictures.shape, generator=rng))


LEARNED = "as learned"
SHIFTS = ("other colours", "texture", "noise")


def kinds(plain: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """By test set the same drawings `(n, 3, 32, 32)`: as the task has them, and shifted from there in three ways."""
    learned = negatives(plain)
    return {LEARNED: learned} | dict(zip(SHIFTS, (plain, textured(learned, rng), noisy(learned, rng)), strict=True))


def varied(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """What pre-training sees: half as drawn, half with other strengths of colours and mild noise, some as negatives."""
    n = len(pictures)
    changed = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < 0.3, 255 - pictures, pictures).float()
    changed = changed * (0.5 + 0.7 * torch.rand(n, 3, 1, 1, generator=rng))
    changed = changed + 25 * torch.rand(n, 1, 1, 1, generator=rng) * torch.randn(pictures.shape, generator=rng)
    plain = torch.rand(n, 1, 1, 1, generator=rng) < 0.5
    return torch.where(plain, pictures, _as_bytes(changed))


def _as_bytes(pictures: Tensor) -> Tensor:
    return pictures.round().clamp(0, 255).to(torch.uint8)


# --- pre-training --------------------------------------------------------------------------------------------------


def pretrained(steps: int, of_first: int, seed: int = 0, lr: float = 2e-3) -> open_clip.CLIP:
    """Both towers after `steps` steps of a contrastive loss; progress is a line a minute.

    As on the web, some things are seen more often than others: see `long_tail`. Batches are drawn from all pictures.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model = open_clip.CLIP(**CONFIG, init_logit_scale=math.log(SCALE))
    texts = tokenizer()
    said = torch.stack([texts([template.format(name) for name in CLASSES]) for template in TEMPLATES])
    seen, labels = long_tail(of_first)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    spoken = time.monotonic()
    for step in range(steps):
        which = torch.randint(len(seen), (BATCH,), generator=rng)
        captions = said[int(torch.randint(len(said), (), generator=rng))]
        loss = contrastive_loss(model, varied(seen[which], rng), labels[which], captions)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if time.monotonic() - spoken > 60:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
            spoken = time.monotonic()
    return model.eval()


def tokenizer() -> open_clip.SimpleTokenizer:
    """CLIP's own, for texts as long as the tower reads."""
    return open_clip.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])


def long_tail(of_first: int) -> tuple[Tensor, Tensor]:
    """Drawings `(n, 3, 32, 32)` uint8 for pre-training and their labels `(n,)`: of class k, `of_first` / √k of them."""
    counts = [round(of_first / math.sqrt(k + 1)) for k in range(len(CLASSES))]
    every = drawings(FIRST_SEED, of_first)
    seen = torch.cat([of_class[:count] for of_class, count in zip(every, counts, strict=True)])
    return seen, torch.repeat_interleave(torch.tensor(counts))


def contrastive_loss(model: open_clip.CLIP, pictures: Tensor, labels: Tensor, captions: Tensor) -> Tensor:
    """CLIP's symmetric loss (arXiv:2103.00020) of uint8 pictures `(n, 3, 32, 32)` and tokens `(classes, length)`.

    All pictures of a class belong to its one caption, as in UniCL (arXiv:2204.03610). A caption without a picture is
    left out of the half that goes from captions to pictures.
    """
    images = model.encode_image((pictures / 255 - MEAN) / STD, normalize=True)
    texts = model.encode_text(captions, normalize=True)
    logits = model.logit_scale.clamp(max=math.log(SCALE)).exp() * images @ texts.T
    members = F.one_hot(labels, len(captions)).float()
    present = members.sum(0).clamp(min=1)
    to_pictures = -(logits.log_softmax(0) * members).sum(0) / present
    return (F.cross_entropy(logits, labels) + to_pictures[members.any(0)].mean()) / 2


def save(model: open_clip.CLIP, path: Path) -> None:
    """Writes the weights as safetensors, and beside them the open_clip_config.json that says what they are of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [MEAN] * 3, "std": [STD] * 3}}
    path.with_name("open_clip_config.json").write_text(json.dumps(words, indent=1) + "\n")
    save_file({name: values.contiguous() for name, values in model.state_dict().items()}, path)
