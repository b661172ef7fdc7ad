"""Results of episodes, as they come in."""

import os

import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.storage.episode_journal import Journal

RESULTS = [{"accuracy": [0.5, 1.0]}]


def test_what_every_process_wrote_is_read_and_removed(tmp_path):
    output = tmp_path / "run[1].json"
    Journal(output).write("a", 0, RESULTS)
    Journal(output, rank=1).write("a", 2, RESULTS)
    Journal(output, rank=1).write("b", 0, RESULTS)
    Journal(tmp_path / "other.json").write("c", 0, RESULTS)
    assert Journal(output).read() == {"a": {0: RESULTS, 2: RESULTS}, "b": {0: RESULTS}}
    Journal(output).remove()
    assert Journal(output).read() == {}
    assert Journal(tmp_path / "other.json").read() == {"c": {0: RESULTS}}


def test_a_line_cut_short_by_a_crash_is_passed_over(tmp_path):
    journal = Journal(tmp_path / "run.json")
    journal.write("a", 0, RESULTS)
    whole = journal.path.read_text()
    journal.write("a", 1, RESULTS)
    for length in range(len(whole), 2 * len(whole) - 1):
        journal.path.write_text((whole + whole)[:length])
        assert journal.read() == {"a": {0: RESULTS}}
        journal.write("b", 0, RESULTS)
        assert journal.read() == {"a": {0: RESULTS}, "b": {0: RESULTS}}
    for strange in ('"text"', "[]", "{}", "\x00"):
        journal.path.write_text(whole + strange + "\n")
        assert journal.read() == {"a": {0: RESULTS}}


def test_only_its_own_files_are_removed(tmp_path):
    journal = Journal(tmp_path / "run.json")
    journal.write("a", 0, RESULTS)
    Journal(tmp_path / "run.json", rank=12).write("a", 1, RESULTS)
    others = ["run.json.partial.txt", "run.json.partial-notes", "run.json.partials", "run.json.partial-1.json"]
    for name in others:
        (tmp_path / name).write_text('{"key": "theirs", "start": 0, "results": [{"accuracy": [1.0]}]}\n')
    assert set(journal.read()) == {"a"}
    journal.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_journal_that_cannot_be_read_is_a_sentence(tmp_path):
    (tmp_path / "run.json.partial").mkdir()
    with pytest.raises(FewshotError, match=r"run\.json\.partial can't be read"):
        Journal(tmp_path / "run.json").read()


def test_nothing_lies_beside_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "run")
    journal = Journal(tmp_path / "run")
    journal.write("a", 0, RESULTS)
    assert journal.read() == {}
    journal.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
