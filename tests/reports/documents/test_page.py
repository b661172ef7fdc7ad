"""The page: whole, self-contained, the same each time, and safe whatever names hold."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from fewshot_cli.reports.comparison import score
from fewshot_cli.reports.documents.page import answer, html
from fewshot_cli.reports.figures.comparison import plots
from fewshot_cli.results import Skipped

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """What a browser would make of it: tags must close in order, texts and attributes are kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.texts, self.tags, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def svgs(text: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def visible(name: str) -> str:
    return name.replace("\x1b", "\\x1b").replace("\ud800", "\\ud800").replace("\ufffe", "\\ufffe")


@pytest.mark.slow
def test_the_page_has_every_name_and_number(report, page):
    texts = Page(page).texts
    text = "\n".join(texts)
    for recipe, method in report.methods.items():
        assert visible(recipe) in text
        assert score(method) in text
        for row, figures in method.datasets.items():
            assert visible(row) in texts
            assert score(figures) in texts
    for fact in ("seed 7", "test_vit", "2.99", "strength: 0.125", f"{0:064x}"):
        assert fact in text, fact


@pytest.mark.slow
def test_the_page_needs_nothing_else_and_runs_nothing(page):
    assert "http" not in page
    assert "@import" not in page
    found = Page(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "b", "i"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name == "src" or name.startswith("on")]
    assert all(value.startswith("#") for name, value in found.attributes if name.endswith("href"))
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)", page))


@pytest.mark.slow
def test_the_same_report_gives_the_same_bytes(report, page):
    assert html(report) == page
    page.encode("utf-8")


def test_ids_are_unique_and_references_reach_them(page):
    ids = [value for name, value in Page(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="|url\()#([^")]*)', page)
    assert set(referred) <= set(ids)


def test_pictures_are_xml_and_say_what_they_show(page):
    pictures = svgs(page)
    assert len(pictures) == page.count("<figure>")
    for picture in pictures:
        assert picture.get("role") == "img"
        title, description = picture[0], picture[1]
        assert (title.tag, description.tag) == ("title", "desc")
        assert picture.get("aria-labelledby") == title.get("id")
        assert picture.get("aria-describedby") == description.get("id")
        assert title.text
        assert len(description.text) > 10


@pytest.mark.slow
def test_pictures_take_the_ink_of_the_page(case):
    text = html(case["three"])
    assert "currentColor" in text
    assert "#010203" not in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "names"),
    [
        ("three", ["accuracy", "differences", "costs"]),
        ("shots", ["accuracy", "differences", "shots", "costs"]),
        ("sessions", ["accuracy", "differences", "sessions", "costs"]),
        ("one", []),
        ("one, many data sets", ["accuracy"]),
    ],
)
def test_there_is_a_picture_of_what_was_asked(case, which, names):
    assert [plot.name for plot in plots(case[which])] == names


@pytest.mark.slow
def test_recipes_are_named_in_pictures(case):
    for which in ("three", "fifteen"):
        for plot in plots(case[which]):
            told = [element.text for element in ET.fromstring(plot.svg).iter("text")]
            for recipe in case[which].methods:
                assert any(recipe in text for text in told if text), (plot.name, recipe)


@pytest.mark.slow
def test_pictures_do_not_depend_on_what_matplotlib_is_set_to(case):
    import matplotlib as mpl

    before = html(case["three"])
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False}):
        assert html(case["three"]) == before


def test_what_is_shown_is_said_first(case):
    percent = score(case["three"].methods["ridge"])
    assert (
        answer(case["three"])
        == f"ridge answers {percent} % right over 2 data sets. It is better than every other recipe."
    )
    assert "No difference is shown to" in answer(case["one episode"])
    assert answer(case["one"]).endswith("right on photo.")


@pytest.mark.slow
def test_skipped_files_are_listed(case):
    data = case["three"].data
    skipped = {"photo": replace(data["photo"], skipped=(Skipped("a<i>.jpg", "empty"),))}
    text = html(replace(case["three"], data=data | skipped))
    assert "a&lt;i&gt;.jpg" in text
    assert "photo</bdi>: 1 file" in text
