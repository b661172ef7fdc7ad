"""`--json` is a view of typed results: its keys are those that people's scripts lean on."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from fewshot_cli import __version__, results
from fewshot_cli.results import ClassifierFile, DoctorResult, Prediction, PredictResult, Problem, Result

KEYS = {
    "AdaptResult": "seed backbone method head classes images per_class skipped left_out folder file bytes graft "
    "support_bytes transductive density bank pruning seconds expected_accuracy doubts max_abs_diff values device "
    "recipe data versions expected_with_more labels several_labels candidates advice",
    "PredictResult": "file backbone classes images unread transductive predictions files sorted_into unknown "
    "coverage coverage_by_class seconds",
    "EvalResult": "file sha256 folder backbone method transductive classes images skipped accuracy low high n "
    "learned_from balanced_accuracy per_class confusion ece expected_accuracy refused refused_unknown covered set_size "
    "data versions seconds",
    "DoctorResult": "folder classes images left_out counts findings learned labels not_learned",
    "DemoResult": "folder recipe adapt eval predict",
    "Prediction": "path label probability top error file probabilities copy labels",
    "Problem": "path class kind severity problem remedy other",
    "Pruning": "density density_before accuracy accuracy_before",
    "RoundingCost": "stored head max_abs_diff top1_agreement accuracy accuracy_before",
    "ExpectedAccuracy": "mean low high how",
    "Skipped": "path reason",
    "InspectDeltaResult": "file bytes sha256 backbone fingerprint licence image_size towers method classes head graft "
    "support density changes format values bytes_per_changed_weight recipe seed images data expected_accuracy versions "
    "bank parents texts thresholds chain",
    "InspectBankResult": "file bytes sha256 backbone fingerprint licence image_size towers kind experts size "
    "bytes_as_float32 density expert_density expert_between layers overlap overlap_by_chance recipe router settings "
    "tensors seed episodes data validation versions parent chain",
    "HeadFacts": "dim unit_norm values transductive",
    "GraftDescription": "kind sites values",
    "SupportFacts": "images bytes",
    "ChangedParameter": "parameter shape form values changed",
    "LayerFacts": "name size density norm",
    "Ancestor": "base kind sha256 file",
    "DeltaAncestor": "base kind sha256 file method classes recipe seed images data versions bank parents",
    "BankAncestor": "base kind sha256 file method recipe seed episodes data validation versions bank parents",
    "AncestralBase": "backbone fingerprint licence",
    "VerifyResult": "file backbone checks",
    "ComposeResult": "seed backbone method rule scale kept file bytes density values classes shared_classes files "
    "weights seconds",
    "ComposedAs": "stored head exact",
    "ComposedFile": "file sha256 method classes bank density survival head_factor",
    "SharedClass": "class files cosine",
    "MergedWeights": "changed_by_one changed_by_several signs_agree cancelled disagreements",
    "Disagreement": "parameter changed_by_several signs_agree cancelled",
    "PushResult": "file bytes sha256 kind backbone licence repository revision private url commit files replaced "
    "card_kept pull",
    "PullResult": "repository revision commit url from file bytes kind sha256 backbone fingerprint licence method "
    "classes expected_accuracy",
    "ExportResult": "file from format bytes backbone licence classes images proved_on max_abs_diff top1_agreement "
    "unit_norm use seconds",
    "ImportResult": "file from bytes kind backbone method classes density values restored proved peft images proved_on "
    "max_abs_diff top1_agreement expected_accuracy seconds",
    "MetaTuneResult": "seed backbone image_size method file bytes episodes epochs best_epoch accuracy datasets domains "
    "seconds device threads sources split validation_sources validation_split values recipe data versions notes",
    "EpochFacts": "epoch tasks loss accuracy validation sparsity router",
}
"""In the order in which they are printed, after `command` and `version` where the type is a command's."""


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_stay_what_they_are(name):
    kind = getattr(results, name)
    keys = [each.metadata.get("key", each.name) for each in fields(kind)]
    assert keys == ["version"] * issubclass(kind, Result) + KEYS[name].split()


def test_every_result_is_exported_and_names_its_command():
    kinds = [getattr(results, name) for name in results.__all__ if name.endswith("Result") and name != "Result"]
    assert kinds and all(kind.__subclasses__() or kind.command for kind in kinds)


def test_a_report_is_plain_and_says_nothing_of_what_is_not_there():
    row = Prediction("a.jpg", "cat", 0.75, (("cat", 0.75), ("dog", 0.25)), None)
    result = PredictResult(
        file="x.fewshot", backbone="b", classes=("cat", "dog"), images=1, unread=0, transductive=False,
        predictions=(row,), seconds={"total": 0.5},
    )  # fmt: skip
    report = result.report()
    assert json.loads(json.dumps(report)) == report
    assert list(report)[:3] == ["command", "version", "file"] and report["version"] == __version__
    assert "files" not in report and "file" not in report["predictions"][0]
    assert report["predictions"][0] == {
        "path": "a.jpg", "label": "cat", "probability": 0.75, "top": [["cat", 0.75], ["dog", 0.25]], "error": None,
    }  # fmt: skip
    several = PredictResult(
        backbone="b", classes=("cat", "dog"), images=0, unread=0, transductive=False,
        files=(ClassifierFile("x", ("cat",)),), seconds={},
    ).report()  # fmt: skip
    assert "file" not in several and "predictions" not in several
    assert several["files"] == [{"file": "x", "classes": ["cat"]}]


def test_a_word_that_python_keeps_is_a_key_all_the_same():
    problem = Problem("a.jpg", "cat", "truncated", "error", "it ends", "copy it", None)
    result = DoctorResult(folder="f", classes=(), images=1, left_out={}, counts={}, findings=(problem,))
    assert result.report()["findings"][0]["class"] == "cat"


def test_results_are_read_without_anything_heavy():
    heavy = ("torch", "numpy", "pydantic", "rich", "PIL")
    code = f"import sys, fewshot_cli.results; print(sorted(set({heavy}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"


@pytest.mark.slow
def test_records_of_earlier_runs_are_still_read():
    """Of comparisons and of meta-tuning, as benchmarks/results keeps them; what they say comes out as it went in."""
    kinds = set()
    for path in sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.run.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("command") == "meta-tune":
            assert results.read_meta_tune(record).report()["epochs"] == record["epochs"]
        elif record.get("command") == "eval" and "pairs" in record:
            report = results.read_comparison(record).report()
            assert (report["methods"], report["pairs"]) == (record["methods"], record["pairs"])
        else:
            continue
        kinds.add(record["command"])
    assert kinds == {"eval", "meta-tune"}
