"""`fewshot inspect` of a bank."""

import json

import pytest

KEYS = (
    "command version file bytes sha256 kind backbone fingerprint licence image_size experts size density "
    "expert_density layers overlap overlap_by_chance recipe router seed episodes data validation versions parent chain"
)


@pytest.fixture(scope="module")
def bank(tmp_path_factory, random_bank, vit):
    return random_bank(tmp_path_factory.mktemp("bank") / "[x].bank", vit)


def test_json_has_all_numbers(fewshot, bank):
    result = fewshot("inspect", bank, "--json")
    assert result.exit_code == 0 and result.stderr == "" and result.stdout.count("\n") == 1
    report = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(KEYS.split()) <= set(report)
    assert len(report["overlap"]) == len(report["expert_density"]) == report["experts"] == 3


def test_people_see_a_map_in_plain_characters(fewshot, bank):
    result = fewshot("inspect", bank)
    assert result.exit_code == 0, result.output
    assert "[x].bank" in result.stdout and "blocks.5" in result.stdout and "expert 2" in result.stdout
    assert "█" in result.stdout and "\x1b" not in result.stdout
    assert not any(line.endswith(" ") for line in result.stdout.splitlines())


@pytest.mark.slow
def test_a_picture_is_drawn_where_it_was_asked_for(fewshot, bank, tmp_path):
    for form in ("svg", "png", "html"):
        result = fewshot("inspect", bank, "--picture", tmp_path / f"x.{form}")
        assert result.exit_code == 0, result.output
        assert (tmp_path / f"x.{form}").stat().st_size > 10_000


def test_a_picture_that_can_not_be_is_told_in_a_sentence(fewshot, bank, file, tmp_path):
    for what, picture, word in (
        (bank, tmp_path / "x.gif", ".svg, .png, .html"),
        (bank, file / "x.svg", "can't be written"),
        (file, tmp_path / "x.svg", "only banks"),
    ):
        result = fewshot("inspect", what, "--picture", picture)
        assert result.exit_code == 2 and result.stdout == "" and word in result.stderr
        assert "Traceback" not in result.stderr


def test_a_delta_file_names_the_bank_it_is_from(fewshot, file, tmp_path):
    from dataclasses import replace

    from fewshot_cli.formats.delta.file import read_delta_file, write_delta_file

    read = read_delta_file(file)
    provenance = read.header.provenance.model_copy(update={"bank": "e" * 64})
    made = replace(read, header=read.header.model_copy(update={"provenance": provenance}))
    write_delta_file(tmp_path / "x.fewshot", made.header, made.delta, made.head)
    assert f"from bank     sha256 {'e' * 64}" in fewshot("inspect", tmp_path / "x.fewshot").stdout
    assert "from bank" not in fewshot("inspect", file).stdout


def test_the_chain_is_shown_below(fewshot, file, bank):
    assert "x.fewshot delta file by finetune, classes 3: cat, house, star" in fewshot("inspect", file).stdout
    assert "└── base test_vit, licence unknown, sha256" in fewshot("inspect", file).stdout
    assert "[x].bank bank by smat" in fewshot("inspect", bank).stdout


def test_a_card_is_written_where_it_was_asked_for(fewshot, file, bank, tmp_path):
    for what, words in ((file, "cat, house, star"), (bank, "3 experts")):
        result = fewshot("inspect", what, "--card", tmp_path / "x.md")
        assert result.exit_code == 0, result.output
        text = (tmp_path / "x.md").read_text(encoding="utf-8")
        assert text.startswith("---\nlicense: ") and words in text and str(what.parent) not in text
    for card, word in ((tmp_path / "x.card", "does not end in .md"), (file / "x.md", "can't be written")):
        result = fewshot("inspect", file, "--card", card)
        assert result.exit_code == 2 and word in result.stderr and result.stdout == ""


@pytest.mark.slow
def test_a_card_never_replaces_what_a_person_wrote(fewshot, file, bank, tmp_path):
    readme = tmp_path / "README.md"
    for text in ("# Mine\n", "\xff no UTF-8"):
        readme.write_bytes(text.encode("latin-1"))
        result = fewshot("inspect", file, "--card", readme)
        assert result.exit_code == 2 and "README.md is there already" in result.stderr and result.stdout == ""
        assert readme.read_bytes() == text.encode("latin-1")
    readme.write_text("")
    assert fewshot("inspect", file, "--card", readme).exit_code == 0
    assert fewshot("inspect", bank, "--card", readme).exit_code == 0  # nobody edited it, and it can be made again
    edited = readme.read_text().replace("# ", "# My ", 1)
    readme.write_text(edited)
    assert fewshot("inspect", bank, "--card", readme).exit_code == 2
    assert readme.read_text() == edited


def test_a_bank_that_it_is_not_from_is_told_in_a_sentence(fewshot, file, bank):
    result = fewshot("inspect", file, "--bank", bank)
    assert result.exit_code == 2 and "[x].bank is not a bank that" in result.stderr
