import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fewshot_cli.files.cache import FeatureCache, NoCache, cache_folder

ROOT = Path(__file__).resolve().parents[2]


def features(seed: int, count: int = 3, dim: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"{seed}-{i}": rng.standard_normal(dim, dtype=np.float32) for i in range(count)}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "deep" / "features.sqlite"


def test_what_is_saved_is_found_again_exactly_and_nothing_else(path):
    known = features(0, count=1200)  # more than fit in one query
    FeatureCache(path).save("model", known)
    assert same(FeatureCache(path).load("model", [*known, "unknown"]), known)


def test_models_do_not_mix(path):
    cache = FeatureCache(path)
    cache.save("a", features(0))
    assert cache.load("b", list(features(0))) == {}
    cache.save("b", {"0-0": np.ones(2, dtype=np.float32)})
    assert same(cache.load("a", list(features(0))), features(0))


def test_saving_again_replaces(path):
    cache = FeatureCache(path)
    cache.save("model", {"x": np.zeros(4, dtype=np.float32)})
    cache.save("model", {"x": np.ones(4, dtype=np.float32)})
    assert same(cache.load("model", ["x"]), {"x": np.ones(4, dtype=np.float32)})


def test_many_threads_may_use_it_at_once(path):
    cache = FeatureCache(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: cache.save("model", features(seed)), range(24)))
        found = list(pool.map(lambda seed: cache.load("model", list(features(seed))), range(24)))
    assert all(same(one, features(seed)) for seed, one in enumerate(found))


def test_several_processes_may_use_it_at_once(path):
    script = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom fewshot_cli.files.cache import FeatureCache\n"
        "for i in range(20):\n"
        "    FeatureCache(Path(sys.argv[1])).save(sys.argv[2], {str(i): np.full(3, i, dtype=np.float32)})\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    running = [subprocess.Popen([*command, name], cwd=ROOT) for name in ("a", "b", "c")]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    expected = {str(i): np.full(3, i, dtype=np.float32) for i in range(20)}
    for name in ("a", "b", "c"):
        assert same(FeatureCache(path).load(name, list(expected)), expected)


def test_a_file_that_is_no_database_is_an_empty_cache_and_begun_anew(path):
    path.parent.mkdir()
    path.write_bytes(b"this is no database " * 100)
    cache = FeatureCache(path)
    assert cache.load("model", ["x"]) == {}
    cache.save("model", features(0))
    assert same(cache.load("model", list(features(0))), features(0))


def test_saving_into_a_damaged_file_does_not_fail(path):
    path.parent.mkdir()
    path.write_bytes(b"this is no database " * 100)
    FeatureCache(path).save("model", features(0))
    FeatureCache(path).save("model", features(0))
    assert same(FeatureCache(path).load("model", list(features(0))), features(0))


def test_changed_bytes_never_give_changed_features(path):
    known = features(0, count=20, dim=64)
    FeatureCache(path).save("model", known)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    lost = 0
    for place in rng.choice(len(content), size=150, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        found = FeatureCache(path).load("model", list(known))
        lost += len(found) < len(known)
        assert all(np.array_equal(values, known[key]) for key, values in found.items())
    assert lost > 0


def test_a_truncated_file_never_fails(path):
    known = features(0, count=20, dim=64)
    FeatureCache(path).save("model", known)
    content = path.read_bytes()
    for length in range(0, len(content), 997):
        path.write_bytes(content[:length])
        found = FeatureCache(path).load("model", list(known))
        assert all(np.array_equal(values, known[key]) for key, values in found.items())


def test_a_full_cache_lets_the_oldest_go(path):
    cache = FeatureCache(path, largest=20 * (5 + 1) * 4)
    for seed in range(10):
        cache.save("model", features(seed))
    kept = [seed for seed in range(10) if same(cache.load("model", list(features(seed))), features(seed))]
    assert kept and kept == list(range(kept[0], 10))
    assert kept[0] > 0


def test_a_place_that_cannot_be_written_is_an_empty_cache(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "features.sqlite", tmp_path):
        cache = FeatureCache(path)
        cache.save("model", features(0))
        assert cache.load("model", list(features(0))) == {}
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_no_cache_remembers_nothing_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    cache = NoCache()
    cache.save("model", features(0))
    assert cache.load("model", list(features(0))) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_environment_says_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    FeatureCache().save("model", features(0))
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["features.sqlite"]
    monkeypatch.delenv("FEWSHOT_CACHE")
    assert "fewshot" in cache_folder().parts
