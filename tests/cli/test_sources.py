"""Labelled images are one data set for `adapt`, `eval FILE` and `doctor`: as class folders, as a zip, or as a list."""

import json
import shutil

import pytest


@pytest.fixture
def sources(drawn, tmp_path) -> dict[str, object]:
    """The same images in each form."""
    zipped = shutil.make_archive(str(tmp_path / "photos"), "zip", drawn)
    rows = [f"{path},{path.parent.name}" for path in sorted(drawn.glob("*/*"))]
    (tmp_path / "photos.csv").write_text("\n".join(["path,label", *rows]))
    lines = [json.dumps({"path": str(path), "label": path.parent.name}) for path in sorted(drawn.glob("*/*"))]
    (tmp_path / "photos.jsonl").write_text("\n".join(lines))
    return {"folder": drawn, "zip": zipped, "csv": tmp_path / "photos.csv", "jsonl": tmp_path / "photos.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zip", "csv", "jsonl"])
def test_a_zip_and_a_list_are_what_the_folder_is(form, sources, fewshot, tiny, weights, tmp_path):
    found = {}
    for each in ("folder", form):
        file = tmp_path / f"{each}.fewshot"
        learned = fewshot("adapt", sources[each], "-o", file, *tiny, "--recipe", "ridge", "--json")
        asked = fewshot("eval", file, sources[each], "--weights", weights, "--json")
        examined = fewshot("doctor", sources[each], "--json")
        reports = [json.loads(result.stdout) for result in (learned, asked, examined)]
        found[each] = [
            {
                key: report.get(key)
                for key in ("classes", "images", "data", "per_class", "accuracy", "expected_accuracy")
            }
            for report in reports
        ]
    assert found[form] == found["folder"]


def test_what_a_zip_can_not_give_is_named(sources, fewshot, tiny, tmp_path):
    with_another = tmp_path / "x"
    shutil.unpack_archive(sources["zip"], with_another)
    (with_another / "cat" / "bad.jpg").write_bytes(b"no picture")
    zipped = shutil.make_archive(str(tmp_path / "more"), "zip", with_another)
    report = json.loads(fewshot("adapt", zipped, "-o", tmp_path / "y", *tiny, "--recipe", "ridge", "--json").stdout)
    assert [item["path"] for item in report["skipped"]] == [f"{zipped}: cat/bad.jpg"]
