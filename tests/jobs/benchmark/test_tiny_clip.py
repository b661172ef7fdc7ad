"""benchmarks/tiny_clip.py: towers that learn from drawings and names, the record that goes on, and the tables."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("open_clip", reason="two towers need open_clip")
sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import tiny_clip
import tiny_clip_table
import tiny_towers
from tiny_clip import Task, answered, best_rates, fill, read_record, read_towers


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    path = tmp_path_factory.mktemp("towers") / "tiny.safetensors"
    tiny_towers.save(tiny_towers.pretrained(steps=2, of_first=4), path)
    return read_towers(path)


@pytest.mark.slow
def test_the_loss_falls_when_both_towers_are_trained():
    def loss(steps):
        model = tiny_towers.pretrained(steps, of_first=4)
        tokens = tiny_towers.tokenizer()([f"a photo of a {name}." for name in tiny_towers.CLASSES])
        with torch.no_grad():
            return tiny_towers.contrastive_loss(model, *tiny_towers.long_tail(4), tokens).item()

    assert loss(12) < loss(1) - 0.3


def test_the_kinds_of_drawings_repeat_and_differ_in_most_pixels():
    plain = tiny_towers.drawings(0, 1).flatten(0, 1)
    once, again = (tiny_towers.kinds(plain, torch.Generator().manual_seed(0)) for _ in range(2))
    assert list(once) == ["as learned", *tiny_towers.SHIFTS]
    assert all(torch.equal(pictures, again[name]) for name, pictures in once.items())
    for shifted in (once[name] for name in tiny_towers.SHIFTS):
        assert shifted.dtype == torch.uint8 and shifted.shape == plain.shape
        assert (shifted != once["as learned"]).flatten(1).double().mean(1).min() > 0.5


@pytest.mark.slow
def test_a_record_goes_on_where_it_stopped(towers, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_clip, "ASKED", 2)
    tasks = [Task(name, None, 1, 0, tiny_clip.TEST_SEED) for name in ("zero-shot", "LP++")]
    path = tmp_path / "record.json"
    fill(towers, path, "runs", tasks[:1])
    first = read_record(path)["runs"]
    assert set(first[0]["right"]) == {"as learned", *tiny_towers.SHIFTS}
    asked = []
    monkeypatch.setattr(tiny_clip, "answered", lambda towers, task: asked.append(task) or answered(towers, task))
    fill(towers, path, "runs", tasks)
    assert asked == tasks[1:]
    assert read_record(path)["runs"][:1] == first


def test_a_record_of_other_towers_is_refused(towers, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"towers": "other", "rates": [], "runs": []}))
    with pytest.raises(SystemExit, match="of other towers"):
        fill(towers, path, "runs", [])


def test_the_rate_is_chosen_by_drawings_like_those_learned_from():
    tried = [
        {"way": "CoOp", "rate": rate, "right": {"as learned": learned, "noise": noise}}
        for rate, learned, noise in ((2e-2, 0.9, 0.1), (6e-3, 0.9, 0.2), (2e-3, 0.8, 0.9))
    ]
    assert best_rates(tried) == {"CoOp": 6e-3}


def test_the_tables_are_of_all_that_was_asked(tmp_path):
    record = {"towers": "x", "rates": [], "runs": []}
    for number, (name, way) in enumerate(tiny_clip.WAYS.items()):
        right = dict.fromkeys(("as learned", *tiny_towers.SHIFTS), 0.5 + number / 100)
        record["rates"] += [{"way": name, "rate": rate, "seed": 0, "right": right} for rate in way.rates]
        for shots in tiny_clip.SHOTS:
            record["runs"] += [
                {"way": name, "shots": shots, "seed": s, "right": {k: v + s / 10 for k, v in right.items()}}
                for s in range(tiny_clip.SEEDS)
            ]
    path = tmp_path / "record.json"
    path.write_text(tiny_clip.as_text(record))
    assert read_record(path) == record
    text = tiny_clip_table.section(path)
    assert "| zero-shot | 60.0 | 60.0 | 60.0 | 60.0 | 60.0 | 60.0 ± 24.8 |" in text
    assert "| SAFT − fine-tuning | as learned | -1.0 ± 0.0 |" in text
    path.write_text(tiny_clip.as_text(record | {"runs": record["runs"][:-1]}))
    assert tiny_clip_table.section(path) == ""
