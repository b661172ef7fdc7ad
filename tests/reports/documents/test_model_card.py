"""The model card, of whatever a file says."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from fewshot_cli.reports.documents.model_card import card, code, fenced, subject
from fewshot_cli.reports.licences import is_non_commercial, licence_metadata, meaning
from fewshot_cli.results import (
    Ancestor,
    AncestralBase,
    ChangedParameter,
    DeltaAncestor,
    ExpectedAccuracy,
    HeadFacts,
    InspectDeltaResult,
    TowersDescription,
)

NASTY = ["a: b", "'q\" `tick`", "--- # x", "<script>alert(1)</script>", "new\nline", "| cell |", "*bold* [x](http://y)"]


@pytest.fixture
def result() -> InspectDeltaResult:
    base = AncestralBase("test_vit", "f" * 64, "apache-2.0")
    file: dict[str, Any] = {
        "sha256": "c" * 64,
        "file": "/home/ada/secret place/my `file`: 1.fewshot",
        "method": "lora",
        "classes": tuple(NASTY),
        "seed": 3,
        "images": 35,
        "data": "d" * 64,
        "versions": {"torch": "2.5"},
    }
    bank = Ancestor(kind="bank", sha256="e" * 64, file=None)
    return InspectDeltaResult(
        **file,
        backbone=base.backbone,
        fingerprint=base.fingerprint,
        licence=base.licence,
        bytes=12345,
        image_size=(64, 64),
        head=HeadFacts(16, False, "float16", None),
        graft=None,
        support=None,
        density=0.01,
        changes=(ChangedParameter("x", (2, 2), "dense", "float16", 4),),
        format=2,
        values="float16",
        bytes_per_changed_weight=2.0,
        recipe={"method": {"name": "lora"}, "note": "```\n# break out\n```"},
        expected_accuracy=ExpectedAccuracy(0.9, 0.8, 0.95, "5-fold: 35 images"),
        bank=bank.sha256,
        parents=(),
        chain=DeltaAncestor(base=base, recipe={"method": {"name": "lora"}}, bank=bank, parents=(), **file),
    )


def test_foreign_text_stays_text(result):
    found = ModelCard(card(result, "timm/test_vit"))
    front = found.data.to_dict()
    assert front["model-index"][0]["name"] == "my `file`: 1.fewshot"
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9
    assert "<script>" not in found.text and "[x](" not in found.text and "| cell |" not in found.text
    assert "````yaml" in found.text and "fewshot predict 'my `file`: 1.fewshot' photos/" in found.text
    assert "secret place" not in found.content and "e" * 64 in found.text


def test_the_front_matter_is_what_the_hub_files_it_under(result):
    front = yaml.safe_load(card(result, "timm/test_vit").split("---\n")[1])
    assert front["license"] == "apache-2.0" and front["base_model"] == "timm/test_vit"
    assert front["library_name"] == "fewshot" and front["pipeline_tag"] == "image-classification"
    unknown = replace(result, licence="unknown", expected_accuracy=replace(result.expected_accuracy, mean=None))
    front = yaml.safe_load(card(unknown, "timm/test_vit").split("---\n")[1])
    assert front["license"] == "unknown"
    assert "base_model" not in front  # nobody knows that the weights are those of the hub
    assert "model-index" not in front  # nothing was measured


TOWERS = TowersDescription("QuickGELU", "center", "bicubic", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), "timm/vit", False)
TEXTS = {"cat": ("a photo of a cat.", "a cat."), "owl": ("a photo of a owl.", "a owl.")}


def test_a_stranger_reads_what_two_towers_are_and_which_texts_made_the_classes(result):
    about = replace(result, backbone="clip:ViT-B-16/openai", licence="mit", towers=TOWERS, classes=("cat", "owl"))
    named = card(replace(about, texts=TEXTS, images=0, changes=(), method="zero-shot"), "timm/vit")
    front, text = named.split("---\n")[1:3]
    assert yaml.safe_load(front)["base_model"] == "timm/vit" and "open_clip" in yaml.safe_load(front)["tags"]
    for said in (
        "from the names of its classes alone, without an image",
        "\n\nEach class is the mean direction of what the text tower of the backbone made of these texts:\n\n",
        "* owl: a photo of a owl. \\| a owl.",
        "| images | none |",
        "| changes | none: the head is made of texts |",
        "the centre cropped, bicubic; normalised by mean (0.48, 0.46, 0.41) and standard deviation (0.27,",
        "| activation | QuickGELU |",
        "No image of these classes was seen.",
        "never ran them on published ones",
        "pip install fewshot-cli\n",
    ):
        assert said in text, said
    assert "pytorch-image-models" not in text and "0 images, sha256" not in text and "| timm" not in text
    learned = card(replace(about, texts=TEXTS, towers=replace(TOWERS, needs_open_clip=True), licence="unknown"))
    assert "from 35 images" in learned and "what was learned from images rests on what it made of them" in learned
    assert "pip install 'fewshot-cli[clip]'" in learned and "others of that name may differ" in learned
    assert "timm" not in learned.split("## Licence")[1].split("##")[0]


def test_a_card_of_one_tower_says_nothing_of_two(result):
    text = card(result, "timm/test_vit")
    assert "pytorch-image-models" in text and "open_clip" not in text and "activation" not in text
    assert "from 1 image." in card(replace(result, images=1))


def test_a_card_that_was_edited_is_nobodys(result):
    text = card(result)
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
