"""Whatever word is given to whatever option, a command does its work or says a sentence: never a traceback."""

import shlex
from collections.abc import Iterator
from itertools import chain

import pytest
import typer

from fewshot_cli.cli.main import app

BASES = {
    "adapt": "adapt {drawn} -o x.fewshot --method ridge {tiny}",
    "predict": "predict {file} {drawn} --weights {weights}",
    "choose": "choose {drawn} {tiny}",
    "plan": "plan {drawn} {tiny} --recipe ridge",
    "eval": "eval protonet --data {drawn} --way 2 --shots 1 --queries 1 --episodes 1 {tiny} -o r.json",
    "meta-tune": (
        "meta-tune dense --data {drawn} -o x.bank {tiny} --set training.protocol.way=2 --set training.protocol.shots=1 "
        "--set training.protocol.queries=1 --set training.epochs=1 --set training.episodes=1 "
        "--set training.validation.episodes=0"
    ),
    "export": "export {file} -o x.out --format safetensors --weights {weights}",
    "import": "import {drawn} -o y.fewshot --weights {weights}",
    "compose": "compose {file} {other} -o z.fewshot",
    "add-class": "add-class {file} {drawn}/cat -o z.fewshot --weights {weights}",
    "remove-class": "remove-class {file} cat -o z.fewshot",
    "rename-class": "rename-class {file} cat dog -o z.fewshot",
    "correct": "correct {file} {drawn} -o z.fewshot --weights {weights}",
    "next": "next {file} {drawn} --weights {weights}",
    "cache clear": "cache clear",
    "inspect": "inspect {file}",
    "verify": "verify {file} --weights {weights}",
    "demo": "demo --device tpu",
    "pull": "pull nobody",
    "push": "push {file} nobody",
    "recipes check": "recipes check ridge",
}
LONG = "x" * 5000
WORDS = ["", "9" * 25, "-1", "nan", LONG, "[", "a\udc80", "protocol.x=["]
CHANGES = ["backbone=2024-13-45", "method.x=[", "=", "a.b", "method=", "image_size=0b_", "method.name.x=1", f"{LONG}=1"]


def commands(group: typer.Typer) -> Iterator[tuple[str, object]]:
    for name, command in typer.main.get_command(group).commands.items():
        inner = getattr(command, "commands", {})
        yield from [(name, command)] if not inner else [(f"{name} {each}", inner[each]) for each in inner]


pytestmark = pytest.mark.slow

CASES = [
    (name, option.opts[0])
    for name, command in commands(app)
    for option in command.params
    if name in BASES and option.param_type_name == "option" and not option.is_flag and option.name != "help"
]


def test_there_are_options_to_try():
    assert len(CASES) > 60 and {name for name, _ in CASES} == set(BASES)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option"), CASES)
def test_any_word_for_any_option_is_taken_or_refused_in_a_sentence(
    name, option, fewshot, drawn, file, other, tiny, weights, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    known = {"drawn": drawn, "file": file, "other": other, "weights": weights}
    quoted = {key: shlex.quote(str(value)) for key, value in known.items()} | {"tiny": shlex.join(map(str, tiny))}
    base = shlex.split(BASES[name].format(**quoted))
    for word in chain(WORDS, CHANGES if option == "--set" else ()):
        if (option, word) == ("--watch", ""):  # the folder that one is in, which is watched until Ctrl-C
            continue
        result = fewshot(*base, option, word)
        assert result.exit_code in (0, 2, 3), (word[:40], result.exception, result.output[-500:])
        assert isinstance(result.exception, SystemExit | None), (word[:40], result.exception)
        if result.exit_code == 2:
            assert result.stdout == "" and result.stderr.count("Error: ") == 1, (word[:40], result.stderr[:500])


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    "words",
    [
        *("adapt WORD -o x", "predict WORD .", "predict {file} WORD --weights {weights}", "eval WORD .", "doctor WORD"),
        *(
            "eval {file} WORD --weights {weights}",
            "eval WORD --data .",
            "eval --check WORD",
            "inspect WORD",
            "pull WORD",
        ),
        *("meta-tune WORD --data . -o x", "export WORD -o x --format onnx", "import WORD -o x", "verify WORD"),
        *("compose WORD {file} -o x", "push WORD ada/things", "push {file} WORD", "recipes show WORD"),
        *(
            "add-class WORD . -o x",
            "add-class {file} WORD -o x",
            "remove-class {file} WORD -o x",
            "correct WORD x -o x",
        ),
        *("rename-class {file} WORD x -o x", "rename-class {file} cat WORD -o x", "correct {file} WORD -o x"),
        *("recipes copy WORD x", "recipes copy ridge WORD", "recipes check WORD", "pull WORD"),
    ],
)
def test_any_word_for_any_argument_is_taken_or_refused_in_a_sentence(
    words, word, fewshot, file, weights, tmp_path, monkeypatch
):
    if words.startswith(("pull", "push")) and "/" in word:
        pytest.skip("the hub would be asked")
    monkeypatch.chdir(tmp_path)
    known = {"WORD": word, "{file}": str(file), "{weights}": str(weights)}
    filled = [known.get(part, part) for part in words.split()]
    result = fewshot(*filled)
    assert result.exit_code in (0, 2, 3), (result.exception, result.output[-500:])
    assert isinstance(result.exception, SystemExit | None), result.exception
    if result.exit_code == 2:
        assert result.stderr.count("Error: ") == 1, result.stderr[:500]
