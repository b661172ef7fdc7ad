"""Results of episodes, as they come in."""

from fewshot_cli.files.journal import Journal

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
