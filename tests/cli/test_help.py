import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from fewshot_cli.cli.main import app

COMMANDS = {
    "adapt": "--budget --output --recipe --method --bank --density --backbone --weights --image-size --set "
    "--device --seed --offline --json --quiet",
    "choose": "--backbone --backbones --budget --weights --image-size --device --seed --offline --json --quiet",
    "plan": "--recipe --backbone --weights --image-size --set --device --offline --json --quiet",
    "predict": "--top --csv --jsonl --probabilities --sort-into --watch --weights --device --offline --json --quiet",
    "eval": "--data --bank --density --no-frozen --weights --device --offline --json --quiet",
    "export": "--output --format --weights --device --offline --json --quiet",
    "meta-tune": "--data --output --resume --validate --tensorboard --values --backbone --weights --image-size --set "
    "--device --seed --offline --json --quiet",
    "import": "--output --backbone --weights --classes --image-size --values --images --offline --json --quiet",
    "compose": "--output --rule --scale --density --seed --json --quiet",
    "add-class": "--output --in-place --name --weights --device --offline --json --quiet",
    "remove-class": "--output --in-place --json",
    "rename-class": "--output --in-place --json",
    "correct": "--output --in-place --weights --device --offline --json --quiet",
    "next": "--count --csv --weights --device --offline --json --quiet",
    "inspect": "--picture --card --bank --json",
    "push": "--private --revision --message --run --offline --json --quiet",
    "pull": "--output --file --revision --offline --json --quiet",
    "verify": "--weights --device --offline --json",
    "doctor": "--learn --backbone --weights --image-size --device --offline --no-cache --json --quiet",
    "backbones": "--json",
    "cache": "",
    "cache show": "--json",
    "cache clear": "--unused-for --json",
    "demo": "--device --seed --json --quiet",
    "recipes": "",
    "recipes list": "--json",
    "recipes show": "",
    "recipes copy": "",
    "recipes check": "--set --json",
}
# Not pydantic, which newer typers themselves check some options with; nothing of ours that needs it is imported.
HEAVY = {"torch", "timm", "rich", "numpy", "PIL", "yaml", "safetensors", "huggingface_hub", "fewshot_cli.recipes"}
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_has_its_options(fewshot, command):
    result = fewshot(*command.split(), "--help")
    assert result.exit_code == 0 and result.stderr == ""
    options = set(re.findall(r"--[a-z-]+", result.stdout))
    assert set(COMMANDS[command].split()) <= options
    *_, name = command.split()
    assert "Usage" in result.stdout and name in result.stdout


def test_help_lists_every_command(fewshot):
    result = fewshot("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"^ +{command.split()[0]} ", result.stdout, re.MULTILINE)


def test_no_command_is_left_out():
    commands = get_command(app).commands
    nested = {f"{name} {below}" for name, found in commands.items() for below in getattr(found, "commands", ())}
    assert {*commands, *nested} == set(COMMANDS)


def test_help_imports_nothing_heavy():
    """One process for all commands, as only the first could hide what the next imports, and none may import any."""
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fewshot_cli.cli.main import app\n"
        f"for command in {list(COMMANDS)!r} + ['', '--version']:\n"
        "    arguments = command.split() + ([] if command == '--version' else ['--help'])\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0, command\n"
        f"    assert not {HEAVY!r} & set(sys.modules), (command, {HEAVY!r} & set(sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_what_needs_no_model_does_not_import_torch(drawn):
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fewshot_cli.cli.main import app\n"
        f"assert CliRunner().invoke(app, ['doctor', {str(drawn)!r}]).exit_code == 0\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_the_version_is_the_packages(fewshot):
    from fewshot_cli import __version__

    assert fewshot("--version").stdout == f"fewshot {__version__}\n"


def test_without_a_command_there_is_help(fewshot):
    result = fewshot()
    assert "Usage" in result.output and "adapt" in result.output
