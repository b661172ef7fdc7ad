"""Every option of every command changes a result, a report or a file, or is refused: none is taken and ignored.

`EXPECTED` says of each option how that is seen. An option without an entry fails, and so does an entry without its
option. What `eval` refuses with a delta file or --check is in test_eval_file.py.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from fewshot_cli.cli.main import app
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import write_folder

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Changes:
    """With `after` in the place of `before`, something else comes out. `base` is another command to add both to."""

    after: str
    before: str = ""
    base: str | None = None


@dataclass(frozen=True)
class Refused:
    """It is refused with `says` in the message."""

    after: str
    says: str
    base: str | None = None


@dataclass(frozen=True)
class Elsewhere:
    """Another test sees it: "file::test"."""

    test: str


class Quiet:
    """It is what decides whether progress is shown."""


class NoCache:
    """The cache is empty after the command, which otherwise fills it."""


Expectation = Changes | Refused | Elsewhere | Quiet | NoCache

ADAPT = "adapt {drawn} -o x.fewshot {tiny} --json"
TRAINED = "--method norms --set method.tuning.optim.steps=1 --set method.tuning.optim.epochs=0"
SMALL = "--way 3 --shots 2 --queries 2 --episodes 5"
EVAL = f"eval protonet --data {{sets}} {SMALL} {{tiny}} -o r.json --json"
INCREMENTAL = (
    "eval protonet --data {sets} --protocol incremental --shots 2 --queries 2 --episodes 5 {tiny} -o r.json --json "
    "--set protocol.base_shots=2"
)
META = (
    "meta-tune dense --data {sets} -o x.bank {tiny} --json --set training.protocol.name=fixed "
    "--set training.protocol.way=3 --set training.protocol.shots=2 --set training.protocol.queries=2 "
    "--set training.epochs=1 --set training.episodes=2 --set training.validation.episodes=1"
)
BASES = {
    "adapt": ADAPT,
    "choose": "choose {drawn} {tiny} --json",
    "plan": "plan {drawn} {tiny} --recipe ridge --json",
    "predict": "predict {file} {drawn} --weights {weights} --json",
    "eval": EVAL,
    "meta-tune": META,
    "export": "export {file} -o x.out --format safetensors --weights {weights} --json",
    "import": "import {peft} -o y.fewshot --weights {weights} --json",
    "compose": "compose {file} {other} -o z.fewshot --json",
    "add-class": "add-class {kept} {new}/fish -o g.fewshot --weights {weights} --json",
    "remove-class": "remove-class {kept} cat -o g.fewshot --json",
    "rename-class": "rename-class {file} cat zebra -o g.fewshot --json",
    "correct": "correct {kept} {corrections} -o g.fewshot --weights {weights} --json",
    "next": "next {kept} {day} --weights {weights} --json",
    "inspect": "inspect {file} --json",
    "verify": "verify {file} --weights {weights} --json",
    "doctor": "doctor {drawn} --json",
    "backbones": "backbones lite --json",
    "demo": "demo --json",
    "cache show": "cache show --json",
    "cache clear": "cache clear --json",
    "recipes list": "recipes list --json",
    "recipes check": "recipes check ridge --json",
    "pull": "pull ada/things --json",
    "push": "push {file} ada/things --json",
}
COMMON = {
    "--weights": Refused("--weights nowhere.safetensors", "nowhere.safetensors"),
    "--device": Refused("--device tpu", "tpu"),
    "--json": None,  # in place of the words for people
    "--quiet": Quiet(),
    "--no-cache": NoCache(),
}
ONCE = ("demo", "push", "pull", "cache show", "cache clear")  # what a second time says differs, as it should
OFFLINE = "--backbone vit_small_patch16_224 --offline"


def without_json(command: str) -> Changes:
    return Changes("--json", base=BASES[command].replace(" --json", ""))


EXPECTED: dict[str, dict[str, Expectation]] = {
    "adapt": {
        "--output": Changes("-o y.fewshot", "--method ridge"),
        "--recipe": Changes("--recipe protonet", "--recipe ridge"),
        "--method": Changes("--method protonet", "--method ridge"),
        "--bank": Changes("--method ridge --bank {bank}", "--method ridge"),
        "--density": Changes("--bank {bank} --density 0.05", "--bank {bank}"),
        "--backbone": Refused("--method ridge --backbone no_such_net", "no_such_net"),
        "--image-size": Changes("--method ridge --image-size 48", "--method ridge"),
        "--set": Changes("--method ridge --set method.strength=9", "--method ridge"),
        "--budget": Refused("--method ridge --budget 9", "--budget"),
        "--folds": Changes(f"{TRAINED} --folds 3", f"{TRAINED} --folds 2"),
        "--values": Changes("--method ridge --values float32", "--method ridge"),
        "--keep-support": Changes("--method ridge --keep-support", "--method ridge"),
        "--labels": Refused("--labels several", "does nothing"),
        "--names": Changes("--names cat,house", "--names cat,star", "adapt -o x.fewshot {clip} --json"),
        "--template": Changes("--template {{}}", "", "adapt {drawn} -o x.fewshot {clip} --method zero-shot --json"),
        "--seed": Changes("--method ridge --seed 1", "--method ridge"),
        "--offline": Refused(OFFLINE, "--offline", base="adapt {drawn} -o x.fewshot --json"),
    },
    "cache show": {},
    "cache clear": {"--unused-for": Changes("--unused-for 1")},
    "predict": {
        "--refuse": Changes("--refuse 0.5"),
        "--sets": Changes("--sets 0.5"),
        "--top": Changes("--top 1"),
        "--csv": Changes("--csv x.csv"),
        "--jsonl": Changes("--jsonl x.jsonl"),
        "--probabilities": Changes("--probabilities"),
        "--sort-into": Changes("--sort-into sorted"),
        "--watch": Refused("--watch nowhere", "nowhere"),
        "--offline": Refused("--offline", "--offline", base="predict {file} {drawn} --json"),
    },
    "eval": {
        "--data": Changes("--data {drawn}"),
        "--protocol": Changes("--protocol across"),
        "--episodes": Changes("--episodes 7"),
        "--way": Changes("--way 2"),
        "--shots": Changes("--shots 1"),
        "--queries": Changes("--queries 1"),
        "--base-way": Changes("--base-way 3 --way 1 --sessions 1", "--base-way 2 --way 1 --sessions 1", INCREMENTAL),
        "--sessions": Changes("--base-way 2 --way 1 --sessions 2", "--base-way 2 --way 1 --sessions 1", INCREMENTAL),
        "--target": Changes("--protocol across --target night", "--protocol across"),
        "--split": Refused("--split test", "split"),
        "--write-splits": Changes("--write-splits splits"),
        "--output": Changes("-o s.json"),
        "--report": Changes("--report r.html"),
        "--markdown": Changes("--markdown r.md"),
        "--threshold": Changes("--threshold 1", "--threshold 0"),
        "--refuse": Changes("--refuse 0.5", base="eval {file} {drawn} --weights {weights} --json"),
        "--sets": Changes("--sets 0.5", base="eval {file} {drawn} --weights {weights} --json"),
        "--check": Refused("--check nowhere.json", "nowhere.json", base="eval"),
        "--bank": Changes("--bank {bank}"),
        "--density": Changes("--bank {bank} --density 0.05", "--bank {bank}"),
        "--frozen": Changes("--bank {bank} --no-frozen", "--bank {bank} --frozen"),
        "--backbone": Refused("--backbone no_such_net", "no_such_net"),
        "--image-size": Changes("--image-size 48"),
        "--set": Changes("--set method.distance=euclidean"),
        "--seed": Changes("--seed 1"),
        "--offline": Refused(OFFLINE, "--offline", base=f"eval protonet --data {{sets}} {SMALL}"),
    },
    "meta-tune": {
        "--data": Changes("--data {drawn}"),
        "--output": Changes("-o y.bank"),
        "--split": Refused("--split test", "split"),
        "--validate": Changes("--validate {day}"),
        "--validation-split": Refused("--validation-split test", "split"),
        "--resume": Elsewhere("test_meta_tune.py::test_killed_and_resumed_it_ends_in_the_same_bank"),
        "--values": Changes("--values float32"),
        "--tensorboard": Changes("--tensorboard board"),
        "--fast-path": Refused("--fast-path on", "would do nothing"),
        "--backbone": Refused("--backbone no_such_net", "no_such_net"),
        "--image-size": Changes("--image-size 48"),
        "--set": Changes("--set training.episodes=3"),
        "--seed": Changes("--seed 1"),
        "--offline": Refused(OFFLINE, "--offline", base=META.replace("{tiny} --json", "")),
    },
    "export": {
        "--output": Changes("-o y.out"),
        "--format": Changes("--format peft"),
        "--images": Changes("--images {day}"),
        "--offline": Refused("--offline", "--offline", base="export {file} -o x.out --format safetensors"),
    },
    "import": {
        "--output": Changes("-o x.fewshot"),
        "--backbone": Refused("--backbone no_such_net", "no_such_net"),
        "--classes": Changes("--classes x,y,z"),
        "--image-size": Changes("--image-size 48"),
        "--values": Changes("--values float32"),
        "--images": Changes("--images {day}"),
        "--offline": Refused("--offline", "--offline", base="import {peft} -o y.fewshot"),
    },
    "compose": {
        "--output": Changes("-o y.fewshot"),
        "--rule": Changes("--rule ties"),
        "--scale": Changes("--scale 0.5"),
        "--density": Changes("--rule ties --density 0.5", "--rule ties"),
        "--values": Changes("--values int8"),
        "--seed": Changes("--rule dare --seed 1", "--rule dare"),
    },
    "add-class": {
        "--output": Changes("-o h.fewshot"),
        "--in-place": Refused("--in-place", "--in-place"),
        "--name": Changes("--name trout"),
        "--offline": Refused("--offline", "--offline", base="add-class {kept} {new}/fish -o g.fewshot"),
    },
    "remove-class": {"--output": Changes("-o h.fewshot"), "--in-place": Refused("--in-place", "--in-place")},
    "rename-class": {"--output": Changes("-o h.fewshot"), "--in-place": Refused("--in-place", "--in-place")},
    "correct": {
        "--output": Changes("-o h.fewshot"),
        "--in-place": Refused("--in-place", "--in-place"),
        "--offline": Refused("--offline", "--offline", base="correct {kept} {corrections} -o g.fewshot"),
    },
    "next": {
        "--count": Changes("--count 2"),
        "--csv": Changes("--csv list.csv"),
        "--offline": Refused("--offline", "--offline", base="next {kept} {day}"),
    },
    "inspect": {
        "--picture": Changes("--picture x.svg", base="inspect {bank} --json"),
        "--card": Changes("--card x.md"),
        "--bank": Changes("--bank {bank}", base="inspect {from_bank} --json"),
    },
    "push": {
        "--private": Elsewhere("test_hub.py::test_a_bank_goes_there_and_back"),
        "--revision": Elsewhere("test_hub.py::test_branches_and_records_of_the_run_are_for_those_who_ask"),
        "--message": Elsewhere("test_hub.py::test_what_is_pushed_is_pulled"),
        "--run": Elsewhere("test_hub.py::test_branches_and_records_of_the_run_are_for_those_who_ask"),
        "--support": Elsewhere("test_hub.py::test_the_support_set_stays_here_unless_it_is_asked_for"),
        "--offline": Refused("--offline", "--offline"),
        "--json": Elsewhere("test_hub.py::test_what_is_pushed_is_pulled"),
    },
    "pull": {
        "--output": Elsewhere("test_hub.py::test_what_is_pushed_is_pulled"),
        "--file": Elsewhere("test_hub.py::test_one_of_several_is_asked_for"),
        "--revision": Elsewhere("test_hub.py::test_branches_and_records_of_the_run_are_for_those_who_ask"),
        "--offline": Refused("--offline", "--offline"),
        "--json": Elsewhere("test_hub.py::test_what_is_pushed_is_pulled"),
    },
    "verify": {"--offline": Refused("--offline", "--offline", base="verify {file}")},
    "choose": {
        "--backbone": Refused("--backbone no_such_net", "no_such_net", base="choose {drawn}"),
        "--backbones": Refused("--backbones one", "--backbones", base="choose {drawn}"),
        "--budget": Changes("--budget 0"),
        "--weights": Refused("--weights nowhere.safetensors", "nowhere.safetensors", base="choose {drawn}"),
        "--image-size": Changes("--image-size 48"),
        "--device": Refused("--device tpu", "tpu"),
        "--seed": Changes("--seed 1"),
        "--offline": Refused(OFFLINE, "--offline", base="choose {drawn}"),
        "--no-cache": NoCache(),
    },
    "plan": {
        "--recipe": Changes("--recipe lda"),
        "--backbone": Refused("--backbone no_such_net", "no_such_net", base="plan {drawn}"),
        "--weights": Refused("--weights nowhere.safetensors", "nowhere.safetensors", base="plan {drawn}"),
        "--image-size": Refused("--image-size 47", "47 pixels"),
        "--set": Refused("--set method.nothing=1", "method.nothing"),
        "--device": Refused("--device tpu", "tpu"),
        "--offline": Refused(OFFLINE, "--offline", base="plan {drawn}"),
    },
    "doctor": {
        "--learn": Changes("--learn {tiny}"),
        "--backbone": Refused("--backbone no_such_net --learn", "no_such_net"),
        "--weights": Refused("--weights nowhere.safetensors --learn", "nowhere.safetensors"),
        "--image-size": Changes("--learn {tiny} --image-size 32", "--learn {tiny}"),
        "--device": Refused("--learn --device tpu", "tpu"),
        "--offline": Refused("--learn --backbone vit_small_patch16_224 --offline", "--offline"),
        "--no-cache": NoCache(),
    },
    "backbones": {},
    "demo": {
        "--output": Elsewhere("test_output.py::test_the_demo_goes_the_whole_way"),
        "--seed": Changes("--seed 1"),
        "--json": Elsewhere("test_output.py::test_the_demo_goes_the_whole_way"),
    },
    "recipes list": {},
    "recipes show": {},
    "recipes copy": {},
    "recipes check": {"--set": Changes("--set method.strength=9")},
}


# --- which options there are ---------------------------------------------------------------------------------------


def options_of(group: Any = None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every command and each of its options by its long name; of commands without any, the command and nothing."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        words = f"{prefix} {name}".strip()
        if hasattr(command, "commands"):
            yield from options_of(command, words)
            continue
        for param in command.params:
            if param.param_type_name == "option" and param.name != "help":
                yield words, max(param.opts, key=len)


EVERY = list(options_of())


def expectation(command: str, option: str) -> Expectation | None:
    known = EXPECTED.get(command, {}).get(option)
    if known is not None or option not in COMMON:
        return known
    return without_json(command) if option == "--json" else COMMON[option]


@pytest.mark.parametrize(("command", "option"), EVERY)
def test_every_option_has_its_entry(command, option):
    assert expectation(command, option) is not None, f"add {command} {option} to EXPECTED: what does it change?"


def test_every_entry_has_its_option():
    entries = {(command, option) for command, found in EXPECTED.items() for option in found}
    assert entries <= set(EVERY)
    assert len(EVERY) > 110


def test_what_is_seen_elsewhere_is_there():
    for found in EXPECTED.values():
        for entry in found.values():
            if isinstance(entry, Elsewhere):
                file, test = entry.test.split("::")
                assert f"def {test}(" in (HERE / file).read_text(encoding="utf-8"), entry.test


# --- what they do --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, file, other, drawn, weights, vit, random_bank, write_towers) -> dict[str, str]:
    """What the commands are about, by the names that they have in EXPECTED."""
    from typer.testing import CliRunner

    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("day", "night")):
        write_folder(folder / "sets" / name, ("cat", "fish", "house", "star"), 6, seed=seed, size=64)
    write_folder(folder / "things", ("cat", "house", "star"), 2, seed=9, size=64)
    tiny = ["--backbone", "test_vit", "--weights", str(weights), "--image-size", "64"]
    bank = random_bank(folder / "my.bank", vit, "dense")
    lora = [str(drawn), "-o", str(folder / "lora.fewshot"), *tiny, "--method", "lora", "--folds", "0"]
    steps = ["--set", "method.tuning.optim.steps=1", "--set", "method.tuning.optim.epochs=0"]
    kept = [str(drawn), "-o", str(folder / "kept.fewshot"), *tiny, "--method", "ridge", "--keep-support"]
    write_folder(folder / "new", ("fish",), 2, seed=7, size=64)
    (folder / "new" / "list.csv").write_text("path,label\nfish/fish-000.jpg,cat\n", encoding="utf-8")
    for words in (
        ["adapt", *kept],
        ["adapt", *lora, *steps],
        ["export", str(folder / "lora.fewshot"), "-o", str(folder / "peft"), "--format", "peft", *tiny[2:4]],
        ["adapt", str(drawn), "-o", str(folder / "from.fewshot"), "--bank", str(bank), *tiny[2:4]],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    (folder / "away").mkdir()
    bank = bank.rename(folder / "away" / "my.bank")  # or else `inspect` finds it beside the file
    names = {"drawn": drawn, "weights": weights, "file": file, "other": other, "bank": bank}
    names |= {name: folder / name for name in ("sets", "peft", "new")}
    names |= {"kept": folder / "kept.fewshot", "corrections": folder / "new" / "list.csv"}
    names |= {
        "work": folder / "work",
        "day": folder / "things",
        "from_bank": folder / "from.fewshot",
        "tiny": " ".join(tiny),
        "clip": f"--backbone clip:tiny --weights {write_towers(folder / 'towers')}",
    }
    return {name: str(value) for name, value in names.items()}


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """What came out of the commands that were run already."""
    return {}


@pytest.fixture
def seen(fewshot, inputs, known, tmp_path, monkeypatch) -> Callable[..., Any]:
    """Everything that comes out of a command run in a folder of its own, but for what a clock says."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def run(*words: str, again: bool = False) -> tuple[int, str, str, dict[str, Any]]:
        typed = " ".join(words).format(**inputs)
        if again:
            return fresh(typed.split())
        if typed not in known:
            known[typed] = fresh(typed.split())
        return known[typed]

    def fresh(words: list[str]) -> tuple[int, str, str, dict[str, Any]]:
        folder = Path(inputs["work"])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        monkeypatch.chdir(folder)
        result = fewshot(*words)
        assert result.exit_code in (0, 2, 3), (result.output, result.exception)
        files = {
            path.relative_to(folder).as_posix(): timeless(path.read_bytes().decode("latin-1"))
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "tfevents" not in path.name
        }
        boards = {path.parent.name: "" for path in folder.rglob("*tfevents*")}
        return result.exit_code, timeless(result.stdout), result.stderr, files | boards

    return run


def timeless(text: str) -> Any:
    """The text, or the JSON in it, without what a clock says."""
    try:
        return without_costs(json.loads(text))
    except ValueError:
        return re.sub(r"(took|<dt>took</dt><dd>)\s*[\d.]+ s[^\n]*", "", text)


def without_costs(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: without_costs(value) for key, value in found.items() if key != "memory" and "seconds" not in key}
    return [without_costs(item) for item in found] if isinstance(found, list) else found


CASES = [
    pytest.param(command, option, entry, id=f"{command} {option}", marks=[pytest.mark.slow] * (command == "demo"))
    for command, option in EVERY
    if isinstance(entry := expectation(command, option), Changes | Refused)
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "option", "entry"), CASES)
def test_an_option_changes_something_or_is_refused(command, option, entry, seen):
    base = entry.base if entry.base is not None else BASES[command]
    if isinstance(entry, Refused):
        status, printed, message, files = seen(base, entry.after)
        assert (status, printed, files) == (2, "", {}), message
        assert entry.says in message and "Traceback" not in message
        return
    before, after = seen(base, entry.before), seen(base, entry.after)
    assert before[0] == 0, before[2]
    assert after != before


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in BASES if name not in ONCE])
def test_the_same_command_gives_the_same_twice(command, seen):
    """Or else the test above would see changes that no option makes."""
    base = BASES[command] + (" --method ridge" if command == "adapt" else "")
    first = seen(base)
    assert first[0] == 0, first[2]
    assert seen(base, again=True) == first


@pytest.mark.parametrize("command", [command for command, option in EVERY if option == "--quiet"])
def test_quiet_decides_about_progress(command, seen, monkeypatch):
    def asked(quiet: bool) -> None:
        raise FewshotError(f"quiet: {quiet}")

    monkeypatch.setattr("fewshot_cli.cli.terminal.progress_on", asked)
    base = BASES[command] + (" --method ridge" if command == "adapt" else "")
    assert "quiet: False" in seen(base, again=True)[2]
    assert "quiet: True" in seen(base, "--quiet", again=True)[2]


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command, option in EVERY if option == "--no-cache"])
def test_without_a_cache_none_is_kept(command, seen, monkeypatch, tmp_path):
    base = BASES[command] + {"adapt": " --method ridge", "doctor": " --learn {tiny}"}.get(command, "")
    for name, options in (("kept", ""), ("none", "--no-cache")):
        monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / name))
        status, _, message, _ = seen(base, options, again=True)
        assert status == 0, message
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert not [path for path in (tmp_path / "none").rglob("*") if path.is_file()]
