"""The sentences that a text tower reads, and those that the docs show."""

import csv
import re
from pathlib import Path

import pytest

from fewshot_cli.engine.data.class_texts import class_texts

DOCS = sorted((Path(__file__).parents[3] / "docs").glob("*.md"))


def test_every_template_has_every_description_or_else_the_name():
    texts = class_texts(("red_kite", "owl"), ("a photo of a {}.", "{}"), {"owl": ("owl, a bird", "barn owl")})
    assert texts == (
        ("a photo of a red kite.", "red kite"),
        ("a photo of a owl, a bird.", "a photo of a barn owl.", "owl, a bird", "barn owl"),
    )


def shown(text):
    """The names and descriptions that a page of the docs gives to a text tower."""
    names = re.findall(r'--names? "?([^"\n]*?)"?(?: -|`|$)', text, re.MULTILINE)
    listed = [block.splitlines() for block in re.findall(r"```\n(class,description\n.*?)```", text, re.DOTALL)]
    return [one for name in names for one in name.split(",")] + [
        row[1] for rows in listed for row in csv.reader(rows[1:])
    ]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_examples_in_the_docs_have_no_article_beside_the_templates_own(page):
    names = shown(page.read_text(encoding="utf-8"))
    assert not [name for name in names if re.search(r"\ban? (a|an|the) ", class_texts((name,))[0][0])]
    assert page.name != "clip.md" or len(names) > 5
