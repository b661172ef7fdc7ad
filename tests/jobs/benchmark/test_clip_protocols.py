"""benchmarks/clip.py: the commands of the papers' protocols, their table, and all of it on a tiny random model."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("open_clip", reason="two towers need open_clip")
sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import clip as protocols

from fewshot_cli.engine.trust.significance import mean_interval, mean_over
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.results import ComparisonResult, Row, read_comparison

ROOT = Path(__file__).resolve().parents[3]


def result(data: str, rows: dict[str, list[float]], protocol: dict, **groups: bool) -> ComparisonResult:
    """A comparison of one recipe, with these accuracies of each episode by group."""
    listed = [Row(f"{data}, {group}", data, 16, None, group=group, beside=groups.get(group, False)) for group in rows]
    report = {
        "seed": 0,
        "backbone": "clip:tiny",
        "image_size": 64,
        "device": "cpu",
        "episodes": 2,
        "protocol": protocol,
        "recipes": {},
        "data": {},
        "rows": [],
        "methods": {},
        "pairs": [],
        "versions": {},
    }
    accuracies = {"coop": {f"{data}, {group}": {"accuracy": values} for group, values in rows.items()}}
    return replace(read_comparison(report), rows=tuple(listed), results=accuracies, methods={"coop": None})


def test_the_table_has_the_means_over_data_sets_and_their_harmonic_mean():
    protocol = {"name": "base-to-new"}
    first = result("pets", {"base": [0.8, 0.9], "new": [0.5, 0.7], "harmonic mean": [0.615, 0.788]}, protocol)
    second = result("food", {"base": [0.6, 0.6], "new": [0.2, 0.4], "harmonic mean": [0.3, 0.48]}, protocol)
    found = protocols.averages([first, second])["coop"]
    assert found["base"] == mean_over([[0.8, 0.9], [0.6, 0.6]])
    assert found["base"].mean == pytest.approx(0.725) and found["new"].mean == pytest.approx(0.45)
    assert found["harmonic mean"].mean == pytest.approx((0.615 + 0.788 + 0.3 + 0.48) / 4)
    both = found["harmonic mean of means"]
    assert both.mean == pytest.approx(2 * 0.725 * 0.45 / 1.175) and both.ci95 is None
    assert both.mean > found["harmonic mean"].mean
    text = protocols.table([first, second])
    assert "| coop | 72.5 ±" in text and "| 55.5 |" in text and "validation: none" in text


def test_the_mean_of_shifted_data_leaves_out_what_is_in_distribution():
    protocol = {"name": "across", "in_distribution": True}
    rows = {"in distribution": [0.9, 0.9], "sketch": [0.4, 0.6], "night": [0.6, 0.7]}
    one = result("photo", rows, protocol, **{"in distribution": True})
    found = protocols.averages([one])["coop"]
    assert list(found) == ["in distribution", "sketch", "night", "mean of shifted"]
    assert found["mean of shifted"].mean == pytest.approx(0.575)
    assert found["mean of shifted"].ci95 == pytest.approx(mean_interval([0.5, 0.65]).ci95)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("oxford_pets", "night")):
        write_folder(folder / name, ("cat", "fish", "house", "star"), 4, seed=seed, size=64)
    return folder


def test_each_data_set_is_a_command_with_its_own_sentence(sets, tmp_path):
    words = ["curve", "--data", str(sets / "oxford_pets"), str(sets / "night"), "--results", str(tmp_path)]
    found = protocols.commands(*protocols.parse([*words, "--device", "cuda"]))
    assert [path.name for _, path in found] == ["curve-oxford_pets.json", "curve-night.json"]
    (pets, _), (night, _) = found
    assert 'template=["a photo of a {}, a type of pet."]' in pets and 'template=["a photo of a {}."]' in night
    assert pets[pets.index("--shots") + 1] == "1,2,4,8,16" and "clip-lora" in pets
    assert pets[pets.index("--device") + 1] == "cuda"
    for wrong in (["shifted", *words[1:]], [*words, "--target", str(sets / "night")]):
        with pytest.raises(SystemExit):
            protocols.parse(wrong)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["curve", "--data", "nowhere"], "There is no nowhere"),
        (["curve", "--data", "SETS"], "holds 2 data sets: night, oxford_pets"),
        (["curve", "--data", "SETS/night", "SETS/night"], "Two data sets are called night"),
        (["shifted", "--data", "SETS/night", "--target", "nowhere"], "There is no nowhere"),
        (["curve", "--data", "SETS/night", "--results", "SETS/night/cat/cat-000.jpg"], "File exists"),
    ],
)
def test_what_is_not_there_is_a_sentence_before_anything_runs(words, says, sets, monkeypatch, capsys):
    monkeypatch.chdir(sets)
    monkeypatch.setattr(sys, "argv", ["clip.py", *(word.replace("SETS", str(sets)) for word in words)])
    with pytest.raises(SystemExit) as end:
        protocols.main()
    shown = capsys.readouterr()
    assert end.value.code == 2 and says in shown.err and not shown.out
    assert not (sets / "clip-results").exists()


@pytest.mark.parametrize(
    ("protocol", "columns"),
    [
        pytest.param("curve", "| recipe | 1 shot | 2 shots |", marks=pytest.mark.slow),
        ("base-to-new", "| recipe | base | new | harmonic mean | harmonic mean of means |"),
        pytest.param("shifted", "| recipe | in distribution | night | mean of shifted |", marks=pytest.mark.slow),
    ],
)
def test_it_runs_from_the_command_to_the_table(protocol, columns, sets, towers_file, tmp_path):
    shots = "1,2" if protocol == "curve" else "1"
    target = ["--target", sets / "night"] if protocol == "shifted" else []
    words = [protocol, "--data", sets / "oxford_pets", *target, "--recipes", "zero-shot", "prolip", "--episodes", 2]
    words += ["--shots", shots, "--backbone", "clip:tiny", "--weights", towers_file, "--results", tmp_path]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "clip.py", *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FEWSHOT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / f"{protocol}.md").read_text()
    assert text.startswith(columns) and "| prolip |" in text and text in done.stdout
    recorded = json.loads((tmp_path / f"{protocol}-oxford_pets.json").read_text())
    assert recorded["recipes"]["zero-shot"]["template"] == ["a photo of a {}, a type of pet."]
