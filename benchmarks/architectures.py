"""Every command on architectures of timm: random weights, a few drawn images, one line for each command.

    python benchmarks/architectures.py run [NAME...]     prints the lines; without names all of NAMES
    python benchmarks/architectures.py table FILE        writes docs/backbones.md from the lines that a run printed

Columns: architecture, image size, recipe, command, and what became of it: `ok`, or the exit code and the message.
"""

import contextlib
import io
import re
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from fewshot_cli.cli.main import app
from fewshot_cli.formats.tensors import unshared
from fewshot_cli.images.drawing import CLASSES, write_folder

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "backbones.md"
SIZE = 112
RECIPES = {"ridge": (), "bitfit": ("method.tuning.optim",), "lora": ("method.tuning.optim",)}
QUICK = ("steps=2", "epochs=0", "batch=6")
FORMATS = {
    "ridge": ("safetensors", "peft"),
    "bitfit": ("safetensors", "peft"),
    "lora": ("safetensors", "onnx", "peft"),  # the graph that the exporter sees is the same whatever was adapted
}
WORDS = """
tf_efficientnet_lite0 resnet18 resnet26d resnetv2_18 resnext26ts lambda_resnet26t botnet26t_256 halonet26t
nf_regnet_b0 regnetx_002 regnety_002 convnext_atto convnextv2_atto mobilenetv3_small_050 mobilenetv4_conv_small
mobilenetv4_hybrid_medium mobileone_s0 fastvit_t8 edgenext_xx_small hgnetv2_b0 mambaout_femto repvit_m0_9
poolformerv2_s12 ghostnet_100 sequencer2d_s levit_128s cs3darknet_s efficientvit_m0 efficientvit_b0 fasternet_t0
shvit_s1 starnet_s1 coat_tiny efficientvim_m1 vit_tiny_patch16_224 deit_tiny_distilled_patch16_224 crossvit_tiny_240
eva02_tiny_patch14_224 samvit_base_patch16_224 efficientformer_l1 efficientformerv2_s0
mixer_s32_224 gmlp_ti16_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 mobilevit_xxs mobilevitv2_050 pit_ti_224
xcit_nano_12_p16_224 tnt_s_legacy_patch16_224 maxvit_rmlp_pico_rw_256
"""
NAMES = tuple(WORDS.split())


def main() -> None:
    match sys.argv[1:]:
        case ["run", *names]:
            torch.set_num_threads(1)
            for name in names or NAMES:
                for line in lines_of(name):
                    print("\t".join(line), flush=True)
        case ["table", file]:
            PAGE.write_text(page(Path(file).read_text(encoding="utf-8").splitlines()), encoding="utf-8")
        case _:
            raise SystemExit(__doc__)


def lines_of(name: str) -> Iterable[tuple[str, ...]]:
    """What each command made of the architecture, at SIZE pixels or the size that the refusal names."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        weights = root / "weights.safetensors"
        torch.manual_seed(0)
        save_file(unshared(random_weights(name)), weights)
        write_folder(root / "images", CLASSES[:3], 3, seed=0)
        size = SIZE
        for recipe in RECIPES:
            file = root / f"{recipe}.fewshot"
            found = adapted(name, recipe, size, root, weights)
            if found != "ok" and (fitting := re.search(r"Give --image-size (\d+)", found)):
                yield name, str(size), recipe, "adapt", found
                size = int(fitting[1])
                found = adapted(name, recipe, size, root, weights)
            yield name, str(size), recipe, "adapt", found
            if found != "ok":
                continue
            base = ("--weights", str(weights), "--offline", "--quiet")
            images = str(root / "images" / CLASSES[0])
            yield name, str(size), recipe, "predict", outcome(["predict", str(file), images, *base])
            yield name, str(size), recipe, "verify", outcome(["verify", str(file), *base[:3]])
            for format_ in FORMATS[recipe]:
                output = str(root / f"{recipe}-{format_}")
                words = ["export", str(file), "-o", output, "--format", format_, *base]
                yield name, str(size), recipe, f"export {format_}", outcome(words)


def random_weights(name: str) -> dict[str, torch.Tensor]:
    """What timm begins with, but for scales of zero or nearly, behind which nothing would ever be learned."""
    model = timm.create_model(name)
    for key, values in model.named_parameters():
        if values.ndim == 1 and not key.endswith("bias") and float(values.detach().abs().max()) < 0.01:
            values.data.fill_(0.5)
    return dict(model.state_dict())


def adapted(name: str, recipe: str, size: int, root: Path, weights: Path) -> str:
    words = ["adapt", str(root / "images"), "-o", str(root / f"{recipe}.fewshot"), "--recipe", recipe]
    words += ["--backbone", name, "--weights", str(weights), "--image-size", str(size)]
    words += ["--folds", "0"] if RECIPES[recipe] else []
    words += ["--offline", "--quiet", "--no-cache", "--values", "float32"]
    for key in RECIPES[recipe]:
        words += [word for change in QUICK for word in ("--set", f"{key}.{change}")]
    return outcome(words)


def outcome(words: Sequence[str]) -> str:
    """`ok`, or the exit code and what was said; a traceback's last line stands for it."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            app(list(words))
        except SystemExit as left:
            code = left.code or 0
        except BaseException as error:
            traceback.print_exc()
            return f"traceback: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "ok" if code == 0 else f"{code}: {' '.join(said.getvalue().split())[:400]}"


def page(lines: Iterable[str]) -> str:
    """The table of docs/backbones.md: an architecture a row, a command a column, and the refusals in full below."""
    found: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    sizes: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        name, size, recipe, command, said = line.split("\t")
        found[name][recipe, command] = said
        if said == "ok" and size not in sizes[name]:
            sizes[name].append(size)
    columns = [
        (recipe, command) for recipe in RECIPES for command in ("adapt", *(f"export {f}" for f in FORMATS[recipe]))
    ]
    head = ["backbone", "px", *(f"{recipe}: {command}" for recipe, command in columns)]
    rows = [
        [f"`{name}`", " ".join(sizes[name]), *(_mark(cells.get(column)) for column in columns)]
        for name, cells in found.items()
    ]
    table = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, cells in found.items():
        for (recipe, command), said in cells.items():
            if said != "ok":
                reasons[_reason(said)].append(f"`{name}` ({recipe}, {command})")
    notes = [f"* {said} *{_where(places)}*" for said, places in reasons.items()]
    asked = sum(len(cells) for cells in found.values())
    good = sum(said == "ok" for cells in found.values() for said in cells.values())
    return (
        INTRODUCTION.format(count=len(found), good=good, asked=asked) + "\n".join([*table, "", *TITLE, *notes]) + "\n"
    )


def _reason(said: str) -> str:
    """The message without the exit code, and without the name of the parameter that it takes for an example."""
    return re.sub(r"(that of|computes with) \S+ (is|without)", r"\1 ... \2", re.sub(r"^\d: (Error: )?", "", said))


def _where(places: Sequence[str]) -> str:
    return ", ".join(places) if len(places) <= 5 else f"{', '.join(places[:3])} and {len(places) - 3} more"


def _mark(said: str | None) -> str:
    return "" if said is None else "yes" if said == "ok" else "no"


TITLE = ("## What is refused, and why", "")
INTRODUCTION = """# Backbones

What works with which architecture of timm: {count} small ones with random weights, three classes of three drawn
images, two steps of training. Of {asked} commands {good} end well; `predict` and `verify` are among them, and not in
the table.
Refused, with the sentence below, is what a format can't hold. A head alone (`ridge`) is no adapter of PEFT on any
backbone.

    python benchmarks/architectures.py run > lines.tsv; python benchmarks/architectures.py table lines.tsv

"""

if __name__ == "__main__":
    main()
