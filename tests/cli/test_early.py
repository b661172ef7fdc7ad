"""Mistakes are told, and words shown, before torch is imported."""

import json
from pathlib import Path

import pytest

from fewshot_cli.engine.model.timm_names import list_backbones

HEAVY = ("torch", "timm", "scipy", "matplotlib", "huggingface_hub")
WEIGHTY = (*HEAVY, "pydantic", "numpy", "PIL", "rich", "yaml", "ruamel.yaml", "jinja2")
"""What takes as long to import as `--help` takes in all, or nearly so."""
WATCHED = f"""
import json, sys
from fewshot_cli.cli.main import main
try:
    main()
except SystemExit as stop:
    code = stop.code
heavy = [name for name in {WEIGHTY!r} if name in sys.modules]
print(json.dumps([code, heavy]), file=sys.stderr)
"""


@pytest.fixture
def watched(process, tmp_path):
    """Runs a command as a process: its exit code, what heavy things it imported, and its output."""

    def run(*words: object, among: tuple[str, ...] = HEAVY) -> tuple[int, list[str], str]:
        result = process("-c", WATCHED, *words, cwd=tmp_path)
        assert "Traceback" not in result.stderr, result.stderr
        *message, facts = result.stderr.strip().split("\n")
        code, heavy = json.loads(facts)
        return code or 0, [name for name in heavy if name in among], "\n".join([result.stdout, *message])

    return run


@pytest.mark.slow
def test_the_watch_sees_torch(watched, file):
    _, heavy, _ = watched("verify", file, "--offline")
    assert "torch" in heavy


@pytest.mark.parametrize(
    "words",
    [
        ["recipes"],
        ["recipes", "list", "--json"],
        ["recipes", "show", "ridge"],
        ["recipes", "copy", "ridge", "mine.yaml"],
        ["recipes", "check", "smat"],
        ["cache"],
        ["cache", "clear"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_what_needs_no_tensor_imports_none(words, watched):
    code, heavy, output = watched(*words)
    assert (code, heavy) == (0, []), output


@pytest.mark.parametrize(
    ("words", "code"), [(["check", "smat"], 0), (["check", "smat", "--set", "method.experts=0"], 2)], ids=str
)
def test_settings_are_checked_without_numpy(words, code, watched):
    """Of what is weighty a recipe takes the library that checks it, and one that writes its answer."""
    found, heavy, output = watched("recipes", *words, among=("numpy", "PIL", "jinja2", *HEAVY))
    assert (found, heavy) == (code, []), output


@pytest.mark.slow
def test_names_of_backbones_are_remembered(watched):
    first = watched("backbones", "resnet50", "--json")
    again = watched("backbones", "resnet50", "--json", among=WEIGHTY)
    assert again[0] == 0 and again[1] == [] and again[2] == first[2]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["recipes"], 0),
        (["recipes", "list", "--json"], 0),
        (["recipes", "show", "ridge"], 0),
        (["recipes", "copy", "ridge", "mine.yaml"], 0),
        (["recipes", "show", "loar"], 2),
        (["recipes", "check", "loar"], 2),
        (["cache"], 0),
        (["cache", "clear"], 0),
        (["cache", "clear", "nothing"], 2),
        (["--version"], 0),
        (["adpat"], 2),
        (["adapt"], 2),
        (["adapt", "nowhere", "-o", "x"], 2),
        (["adapt", "DRAWN", "-o", "x", "--seed", "one"], 2),
        (["adapt", "DRAWN", "-o", "x", "--recipe", "loar"], 2),
        (["adapt", "DRAWN", "-o", "x", "--set", "method.rank"], 2),
        (["adapt", "DRAWN", "-o", "x", "--device", "tpu"], 2),
        (["adapt", "DRAWN", "-o", "x", "--weights", "words"], 2),
        (["adapt", "DRAWN", "-o", "empty"], 2),
        (["plan", "nowhere"], 2),
        (["plan", "DRAWN", "--recipe", "loar"], 2),
        (["doctor", "nowhere"], 2),
        (["doctor", "empty"], 2),
        (["predict", "words", "DRAWN"], 2),
        (["eval", "words", "DRAWN"], 2),
        (["eval", "loar", "--data", "DRAWN"], 2),
        (["eval", "ridge", "--data", "nowhere"], 2),
        (["eval", "--check", "nothing.json"], 2),
        (["meta-tune", "smat", "--data", "nowhere", "-o", "x"], 2),
        (["meta-tune", "smta", "--data", "DRAWN", "-o", "x"], 2),
        (["inspect", "words"], 2),
        (["verify", "words"], 2),
        (["export", "words", "-o", "x", "--format", "onnx"], 2),
        (["export", "words", "-o", "x", "--format", "pdf"], 2),
        (["compose", "words", "words", "-o", "x"], 2),
        (["push", "words", "ada/things"], 2),
        (["pull", "nobody"], 2),
        (["import", "DRAWN", "-o", "empty"], 2),
        (["import", "DRAWN", "-o", "x"], 2),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_needs_no_recipe_and_no_picture_imports_next_to_nothing(words, code, watched, drawn, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").write_text("{no: [yaml")
    answer, heavy, output = watched(*(str(drawn) if word == "DRAWN" else word for word in words), among=WEIGHTY)
    assert (answer, heavy) == (code, []), output
    assert (output.count("Error: ") == 1) == (code == 2), output


@pytest.mark.parametrize("pattern", ["", "resnet50", "resnet50.a1", "vit_*_patch1?", "in1k", "RESNET", "[ab]", "none"])
def test_remembered_names_are_found_as_timm_finds_them(fewshot, pattern):
    found = json.loads(fewshot("backbones", pattern, "--json").stdout)["backbones"]
    assert found == list_backbones(pattern)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["adapt", "nowhere", "-o", "x"], "nowhere"),
        (["adapt", "empty", "-o", "x"], "no sub-folders"),
        (["adapt", "DRAWN", "-o", "empty"], "is a folder"),
        (["adapt", "DRAWN", "-o", "x", "--recipe", "loar"], "lora"),
        (["adapt", "DRAWN", "-o", "x", "--set", "method.rank=0"], "--set is of one recipe"),
        (["adapt", "DRAWN", "-o", "x", "--recipe", "lora", "--set", "method.rank=0"], "method.rank"),
        (["adapt", "DRAWN", "-o", "x", "--set", "method.rank"], "key.path=value"),
        (["adapt", "DRAWN", "-o", "x", "--device", "tpu"], "tpu"),
        (["adapt", "DRAWN", "-o", "x", "--weights", "words"], "not a safetensors file"),
        (["adapt", "DRAWN", "-o", "x", "--bank", "FILE"], "not a bank"),
        (["adapt", "DRAWN", "-o", "x", "--recipe", "words"], "YAML"),
        (["adapt", "DRAWN", "-o", "x", "--recipe", "gda"], "The recipe gda takes the names of the classes"),
        (["adapt", "DRAWN", "-o", "x", "--recipe", "lora", "--set", "head.name=zero-shot"], "reads no texts"),
        (["adapt", "DRAWN", "-o", "x", "--recipe", "lora", "--set", "method.tuning.head=text"], "reads no texts"),
        (["adapt", "DRAWN", "-o", "x", "--recipe", "gda", "--bank", "BANK"], "and test_vit reads no texts"),
        (["adapt", "DRAWN", "-o", "x", "--bank", "BANK", "--template", "a {}"], "would do nothing: test_vit reads no"),
        (["adapt", "DRAWN", "-o", "x", "--template", "a {}"], "would do nothing"),
        (["adapt", "--names", "cat,star", "-o", "x"], "reads no texts"),
        (["adapt", "--names", "cat", "-o", "x", "--backbone", "clip:tiny"], "does not name two classes"),
        (["adapt", "--names", "a,b,a", "-o", "x", "--backbone", "clip:tiny"], "has 'a' twice"),
        (["adapt", "--names", "a,b", "-o", "x", "--recipe", "gda", "--backbone", "clip:tiny"], "learns from images"),
        (["eval", "gda", "--data", "drawn"], "reads no texts"),
        (["eval", "ridge", "coop", "--data", "drawn", "--bank", "BANK"], "and test_vit reads no texts"),
        (["plan", "DRAWN", "--recipe", "zero-shot"], "it reads texts"),
        (["plan", "DRAWN", "--recipe", "ridge", "--recipe", "smat-vits"], "meta-tune by"),
        (["plan", "DRAWN", "--set", "method.strength=1"], "--set is of recipes"),
        (["plan", "DRAWN", "--weights", "words"], "not a safetensors file"),
        (["predict", "words", "DRAWN"], "not a delta file"),
        (["predict", "FILE", "DRAWN", "--csv", "empty"], "is a folder"),
        (["predict", "FILE", "DRAWN", "--jsonl", "-"], "is called -"),
        (["adapt", "DRAWN", "-o", "-"], "is called -"),
        (["predict", "FILE", "nowhere"], "There is no nowhere"),
        (["next", "FILE", "nowhere"], "There is no nowhere"),
        (["next", "FILE", "DRAWN"], "--keep-support"),
        (["add-class", "FILE", "DRAWN", "-o", "x"], "--keep-support"),
        (["add-class", "FILE", "-o", "x", "--name", "dog"], "reads no names"),
        (["add-class", "FILE", "-o", "x"], "nothing to add"),
        (["add-class", "FILE", "-o", "x", "--name", "dog", "--no-cache"], "would do nothing"),
        (["correct", "FILE", "words", "-o", "x"], "--keep-support"),
        (["remove-class", "FILE", "nothing", "-o", "x"], "no class 'nothing'"),
        (["rename-class", "FILE", "nothing", "some", "-o", "x"], "no class 'nothing'"),
        (["eval", "ridge", "--data", "DRAWN", "--way", "99"], "fewer than --way 99"),
        (
            ["meta-tune", "smat", "--data", "DRAWN", "-o", "x", "--set", "training.protocol.way=99"],
            "--set training.protocol.way=",
        ),
        (["verify", "none"], "no delta file"),
        (["inspect", "words"], "not a delta file"),
        (["export", "none", "-o", "x", "--format", "onnx"], "no delta file"),
        (["compose", "FILE", "words", "-o", "x"], "not a delta file"),
        (["compose", "FILE", "FILE", "-o", "x", "--density", "0.5"], "add keeps all"),
        (["compose", "FILE", "FILE", "-o", "x", "--rule", "ties", "--density", "nan"], "density of nan"),
        (["compose", "FILE", "FILE", "-o", "x", "--scale", "nan"], "scale of nan"),
        (["import", "DRAWN", "-o", "empty"], "is a folder"),
        (["push", "FILE", "nobody"], "OWNER/NAME"),
        (["pull", "nobody"], "OWNER/NAME"),
        (["demo", "--device", "tpu"], "tpu"),
        (["meta-tune", "ridge", "--data", "DRAWN", "-o", "x"], "adapt to one task"),
        (["meta-tune", "smat", "--data", "nowhere", "-o", "x"], "nowhere"),
        (["meta-tune", "mamf-clip", "--data", "DRAWN", "-o", "x"], "reads no texts"),
        (["meta-tune", "mamf", "--data", "DRAWN", "-o", "x", "--set", "method.heads=fresh"], "would do nothing"),
        (["meta-tune", "mamf", "--data", "DRAWN", "-o", "x", "--set", "template=a {}"], "would do nothing"),
        (["meta-tune", "smat", "--data", "DRAWN", "-o", "x", "--set", "method.experts=0"], "method.experts"),
        (["meta-tune", "smat", "--data", "DRAWN", "-o", "x", "--device", "tpu"], "tpu"),
        (["eval", "ridge", "--data", "nowhere"], "nowhere"),
        (["eval", "loar", "--data", "DRAWN"], "lora"),
        (["eval", "ridge", "--data", "split.json"], "the label 0 is called 'dog' here and 'cat' before"),
        (["eval", "ridge", "--data", "missing.json"], "2 of 2 images are not there, such as cat/1.jpg"),
        (["meta-tune", "dense", "--data", "split.jsonl", "-o", "x"], "take no part in practice"),
        (["eval", "ridge", "--data", "DRAWN", "--protocol", "base-to-new"], "3 classes; base-to-new needs four"),
        (
            ["eval", "gda", "--data", "drawn", "--protocol", "base-to-new", "--backbone", "clip:ViT-B-16/openai"],
            "can't answer classes of which it has only the names",
        ),
        (["eval", "ridge", "--data", "DRAWN", "--set", "protocol.x=["], "x"),
        (["eval", "words", "DRAWN"], "not a delta file"),
        (["recipes", "check", "ridge", "--set", "method.strength=-1"], "method.strength"),
        (["adapt", "DRAWN", "-o", "x", "--backbone", "resnet51"], "resnet50"),
        (
            ["adapt", "DRAWN", "-o", "x", "--recipe", "ridge", "--set", "backbone=resnet51.a1_in1k"],
            "no model called 'resnet51.a1_in1k'",
        ),
        (["eval", "ridge", "--data", "DRAWN", "--backbone", "vit_smal_patch16_224"], "vit_small_patch16_224"),
        (["meta-tune", "smat", "--data", "DRAWN", "-o", "x", "--backbone", "resnet51"], "resnet51"),
        (["import", "ADAPTER", "-o", "x", "--backbone", "resnet51"], "resnet51"),
        (["export", "FILE", "-o", "empty", "--format", "onnx"], "is a folder"),
        (["export", "FILE", "-o", "words", "--format", "peft"], "an adapter is a folder"),
        (["export", "FILE", "-o", "x", "--format", "onnx", "--images", "nowhere"], "nowhere"),
        (["compose", "FILE", "FILE", "-o", "x", "--density", "0.5"], "density"),
        (["compose", "FILE", "FILE", "-o", "x", "--rule", "ties", "--density", "2"], "density"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_mistake_is_told_before_torch_is_imported(words, says, watched, drawn, file, random_bank, vit, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").write_text("{no: [yaml")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    write_splits(tmp_path, drawn)
    here = {"DRAWN": str(drawn), "FILE": str(file), "ADAPTER": "adapter"}
    if "BANK" in words:
        here["BANK"] = str(random_bank(tmp_path / "my.bank", vit, "dense"))
    code, heavy, output = watched(*(here.get(word, word) for word in words))
    assert (code, heavy) == (2, []), output
    assert says in output and not (tmp_path / "x").exists()


def write_splits(folder: Path, drawn: Path) -> None:
    """A split of JSON with a label of two names, one of images that are not there, and a sound list."""
    split = {"train": [["cat/1.jpg", 0, "cat"]], "test": [["dog/1.jpg", 0, "dog"]]}
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "missing.json").write_text(json.dumps(split | {"test": [["dog/1.jpg", 1, "dog"]]}))
    rows = [
        {"path": str(path), "class": path.parent.name, "split": part}
        for label in sorted(drawn.iterdir())
        for part, path in zip(("train", "test"), sorted(label.iterdir()), strict=False)
    ]
    (folder / "split.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
