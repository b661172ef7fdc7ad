"""A bank for people: in a terminal of any width, as a picture and as a page, whatever names hold."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from fewshot_cli.reports.documents.page import bank_page
from fewshot_cli.reports.figures.bank import picture
from fewshot_cli.reports.printable import printable
from fewshot_cli.reports.terminal.describe import inspected
from fewshot_cli.results import Ancestor, AncestralBase, BankAncestor, InspectBankResult, LayerFacts

NASTY = "<b>$x_1$</b> \x1b[31m[bold]"


def made(experts: int = 4, layers: int = 6, density: float = 0.1, name: str = "blocks.{}") -> InspectBankResult:
    """The whole result of a bank, whose densities rise from layer to layer and from expert to expert."""
    columns = max(1, experts)
    base = AncestralBase(name.format("net"), "b" * 64, "apache-2.0")
    practice: dict[str, Any] = {
        "seed": 7,
        "episodes": 12_000,
        "data": {name.format("omniglot"): "c" * 64},
        "validation": {name.format("omniglot"): 0.625},
        "versions": {"torch": "2.99"},
    }
    return InspectBankResult(
        version="1.2.3",
        file="x.bank",
        bytes=12_345_678,
        bytes_as_float32=4_000_000 * (1 + experts),
        sha256="a" * 64,
        backbone=base.backbone,
        fingerprint=base.fingerprint,
        licence=base.licence,
        image_size=(64, 64),
        kind="experts" if experts else "dense",
        experts=experts,
        size=1_000_000,
        density=min(1.0, 2 * density),
        expert_density=tuple(density * (1 + m / columns) / 2 for m in range(experts)),
        expert_between=(0.5,) * experts,
        layers=tuple(
            LayerFacts(
                name.format(i),
                1000 * (1 + i),
                tuple(density * (1 + i + m) / (layers + columns) for m in range(columns)),
                0.25 * i * density,
            )
            for i in range(layers)
        ),
        overlap=tuple(
            tuple(1.0 if a == b else density * abs(a - b) / experts for a in range(experts)) for b in range(experts)
        ),
        overlap_by_chance=tuple(tuple(1.0 if a == b else density / 2 for a in range(experts)) for b in range(experts)),
        recipe={"method": {"name": "smat", "sparsity": 0.875}},
        router={"pool": "mean"} if experts else {},
        settings={},
        tensors={},
        parent="d" * 64,
        chain=BankAncestor(
            base=base,
            sha256="a" * 64,
            file="x.bank",
            method="smat",
            recipe={"method": {"name": "smat"}},
            bank=Ancestor(kind="bank", sha256="d" * 64, file=None),
            **practice,
        ),
        **practice,
    )


CASES = {
    "eight": made(8),
    "two": made(2),
    "one": made(1),
    "dense": made(0),
    "many": made(30, 70),
    "more than are drawn": made(70, 3),
    "closed": made(3, density=0.0),
    "dense and zero": made(0, density=0.0),
    "open": made(2, density=1.0),
    "nasty": made(2, name=NASTY + "{}"),
}


@pytest.fixture(params=CASES)
def result(request) -> InspectBankResult:
    return CASES[request.param]


def shown(result: InspectBankResult, width: int = 80) -> str:
    console = Console(width=width, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(inspected(printable(result)))
    return captured.get()


def test_a_terminal_shows_every_fact(result):
    text = shown(result)
    for fact in (
        "12.3 MB",
        "licence apache-2.0",
        "12,000 episodes",
        "seed 7",
        "62.5 %",
        "torch 2.99",
        "d" * 64,
        "0.875",
    ):
        assert fact in text, fact
    assert all(len(line) <= 80 for line in text.splitlines())
    assert not any(ord(character) < 32 and character != "\n" for character in text)


def test_numbers_need_no_colour():
    text = shown(CASES["eight"])
    first, last = (next(line for line in text.splitlines() if line.startswith(f"blocks.{i}")) for i in (0, 5))
    assert re.findall(r"[\d.]+", first)[3:] == ["0.7", "1.4", "2.1", "2.9", "3.6", "4.3", "5.0", "5.7"]
    assert first.count("░") == 6 and last.count("█") == 8 and last.rstrip().endswith("██ 9.3")
    assert "5.0 to 9.4 % of the weights by each expert, 20.0 % by any" in text


def test_chance_is_told_beside_what_was_found():
    assert "share 5.0 % of what either opens, on average (5.0 % by chance)" in " ".join(shown(CASES["two"]).split())
    alone = shown(CASES["one"])
    assert "by chance" not in alone and "overlap" not in alone


def test_what_does_not_fit_is_said():
    text = shown(CASES["many"])
    assert "10 more layers not shown" in text and "experts 20 to 29 not shown" in text


def test_a_dense_bank_shows_its_norms():
    text = shown(CASES["dense"])
    assert "expert" not in text and "root mean square" in text and "0.125" in text


@pytest.mark.slow
def test_a_picture_names_layers_and_is_the_same_each_time(result):
    svg = picture(result, "svg")
    texts = {element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert texts >= ({"0", "layer"} if result.experts else {"layer"})
    assert ("Overlap of experts" in texts) == (result.experts > 1)
    assert svg == picture(result, "svg")


@pytest.mark.slow
def test_the_page_is_whole_and_needs_nothing_else(result):
    page = bank_page(result)
    assert "http" not in page and "\x1b" not in page and "<script" not in page and "<b>" not in page
    assert "&lt;b&gt;" in page or "blocks.2" in page
    tags = _Tags(page)
    assert tags.open == [] and page == bank_page(result)
    (svg,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert ET.fromstring(svg).get("role") == "img"


class _Tags(HTMLParser):
    """Tags must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
