"""Many files: in order, errors as rows, never far ahead, and gone when nobody listens any more."""

import threading
import time

import numpy as np
import pytest

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.images import prefetch as loading
from fewshot_cli.images.decode import load
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.image_error import ImageError
from fewshot_cli.images.prefetch import LOOK_AHEAD, in_order, load_all

SMALL = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def image_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fewshot-images")]


def test_pictures_in_order_and_errors_as_rows(tmp_path):
    write_folder(tmp_path, ["cat", "key"], per_class=4, seed=0, size=48)
    paths = sorted(tmp_path.glob("*/*.jpg"))
    (tmp_path / "bad.jpg").write_bytes(b"no")
    paths.insert(3, tmp_path / "bad.jpg")
    paths.append(tmp_path / "missing.jpg")
    results = list(load_all(paths, SMALL, workers=3))
    assert len(results) == len(paths)
    for path, result in zip(paths, results, strict=True):
        if path.exists() and path.name != "bad.jpg":
            assert (result == load(path, SMALL)).all()
            assert result.dtype == np.uint8
        else:
            assert isinstance(result, ImageError)
            assert result.reason


def test_no_paths():
    assert list(load_all([], SMALL)) == []


def test_order_holds_when_the_first_is_slowest():
    def slow_first(i: int) -> int:
        time.sleep(0.05 if i == 0 else 0)
        return i

    assert list(in_order(slow_first, range(200), workers=4)) == list(range(200))


def test_closing_early_leaves_no_thread_and_never_runs_far_ahead():
    begun = []
    results = in_order(lambda i: begun.append(i) or i, range(10_000), workers=2)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= LOOK_AHEAD + 1
    results.close()
    assert not image_threads()


def test_other_exceptions_are_raised(monkeypatch):
    def broken(path, preprocessing):
        raise KeyError("a bug")

    monkeypatch.setattr(loading, "load", broken)
    with pytest.raises(KeyError, match="a bug"):
        list(load_all(["a", "b"], SMALL))
    assert not image_threads()
