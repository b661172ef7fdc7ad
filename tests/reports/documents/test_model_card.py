"""The model card, of whatever a file says."""

import pytest
import yaml
from huggingface_hub import ModelCard

from fewshot_cli.reports.documents.model_card import card, code, fenced, subject
from fewshot_cli.reports.licences import is_non_commercial, licence_metadata, meaning

NASTY = ["a: b", "'q\" `tick`", "--- # x", "<script>alert(1)</script>", "new\nline", "| cell |", "*bold* [x](http://y)"]


@pytest.fixture
def report():
    link = {
        "kind": "delta",
        "sha256": "c" * 64,
        "file": "/home/ada/secret place/my `file`: 1.fewshot",
        "method": "lora",
        "classes": NASTY,
        "recipe": {"method": {"name": "lora"}},
        "seed": 3,
        "images": 35,
        "data": "d" * 64,
        "versions": {"torch": "2.5"},
        "bank": {"kind": "bank", "sha256": "e" * 64, "file": None},
        "parents": [],
    }
    base = {"backbone": "test_vit", "licence": "apache-2.0", "fingerprint": "f" * 64}
    return {
        **{k: link[k] for k in ("sha256", "file", "method", "classes", "seed", "images", "data", "versions")},
        **base,
        "bytes": 12345,
        "image_size": [64, 64],
        "density": 0.01,
        "changes": [{"parameter": "x"}],
        "values": "float16",
        "recipe": {"method": {"name": "lora"}, "note": "```\n# break out\n```"},
        "expected_accuracy": {"mean": 0.9, "low": 0.8, "high": 0.95, "how": "5-fold: 35 images"},
        "chain": {"base": base} | link,
    }


def test_foreign_text_stays_text(report):
    found = ModelCard(card(report, "timm/test_vit"))
    front = found.data.to_dict()
    assert front["model-index"][0]["name"] == "my `file`: 1.fewshot"
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9
    assert "<script>" not in found.text and "[x](" not in found.text and "| cell |" not in found.text
    assert "````yaml" in found.text and "fewshot predict 'my `file`: 1.fewshot' photos/" in found.text
    assert "secret place" not in found.content and "e" * 64 in found.text


def test_the_front_matter_is_what_the_hub_files_it_under(report):
    front = yaml.safe_load(card(report, "timm/test_vit").split("---\n")[1])
    assert front["license"] == "apache-2.0" and front["base_model"] == "timm/test_vit"
    assert front["library_name"] == "fewshot" and front["pipeline_tag"] == "image-classification"
    report["licence"], report["expected_accuracy"]["mean"] = "unknown", None
    front = yaml.safe_load(card(report, "timm/test_vit").split("---\n")[1])
    assert front["license"] == "unknown"
    assert "base_model" not in front  # nobody knows that the weights are those of the hub
    assert "model-index" not in front  # nothing was measured


def test_a_card_that_was_edited_is_nobodys(report):
    text = card(report)
    assert subject(text) == subject(text.replace("\n", "\r\n")) == "my `file`: 1.fewshot"
    assert subject(text.replace("## Limits", "## Mind")) is None
    assert subject(text + "\nmore\n") is None and subject("") is None and subject("---\nlicense: mit\n---\n") is None


@pytest.mark.parametrize(
    ("licence", "metadata", "not_commercial", "words"),
    [
        ("apache-2.0", {"license": "apache-2.0"}, False, "also commercially"),
        ("Apache-2.0 (timm x), as its file says", {"license": "apache-2.0"}, False, "also commercially"),
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}, True, "does not allow commercial use"),
        ("fair-noncommercial-research-license", {"license": "fair-noncommercial-research-license"}, True, "not allow"),
        ("seer-license", {"license": "other", "license_name": "seer-license"}, True, "does not allow commercial use"),
        ("dinov3-license", {"license": "other", "license_name": "dinov3-license"}, False, "terms of its own"),
        ("gemma and mit", {"license": "other", "license_name": "gemma and mit"}, False, "terms of its own"),
        ("unknown", {"license": "unknown"}, False, "not known"),
    ],
)
def test_licences_are_told_in_a_sentence(licence, metadata, not_commercial, words):
    assert licence_metadata(licence) == metadata and is_non_commercial(licence) == not_commercial
    assert words in meaning(licence, "classifier")


def test_timms_own_licence_is_told_where_that_of_the_file_is_not_known():
    assert "timm's own weights of this name are under mit" in meaning("unknown", "bank", "mit")


def test_code_can_not_be_left():
    assert code("a`b") == "``a`b``" and code("`") == "`` ` ``" and code("a\nb") == "`a b`"
    assert fenced("```\nx", "") == "````\n```\nx\n````"
