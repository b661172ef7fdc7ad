"""Episodes: the laws each protocol keeps, Meta-Dataset's sampler against the published one, and what users are told."""

import hashlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fewshot_cli.engine.data.base_to_new import BaseToNew
from fewshot_cli.engine.data.domain_pairs import PoolPlan
from fewshot_cli.engine.data.episode import QUERY, SUPPORT, Episode, Pool, join
from fewshot_cli.engine.data.episode_drawing import amounts as amounts_of
from fewshot_cli.engine.data.episode_drawing import description
from fewshot_cli.engine.data.episode_samplers import (
    Across,
    AnyProtocol,
    Fixed,
    Incremental,
    LeaveOneOut,
    MetaDataset,
    all_alike,
)
from fewshot_cli.engine.rng import Draws
from fewshot_cli.errors import FewshotError


def pool(*domains, name="pool", nodes=None, superclasses=None) -> Pool:
    """A pool with these numbers of images of each class in each domain, the images in a mixed order."""
    way = len(domains[0])
    labels = np.concatenate([np.repeat(np.arange(way), sizes) for sizes in domains])
    of_domain = np.repeat(np.arange(len(domains)), [sum(sizes) for sizes in domains])
    mixed = Draws(0, "mixed", 0).choose(len(labels), len(labels))
    names = tuple(f"domain{number}" for number in range(len(domains))) if len(domains) > 1 else (name,)
    classes = tuple(f"class{number}" for number in range(way))
    return Pool(name, classes, labels[mixed], of_domain[mixed], names, nodes or {}, superclasses or {})


def arrays(episode: Episode) -> list[np.ndarray]:
    parts = [(s.support, s.support_labels, s.query, s.query_labels, np.array([s.way])) for s in episode.sessions]
    return [episode.classes, *(array for part in parts for array in part)]


def fingerprint(protocol, pool, episodes=3) -> str:
    numbers = [array for index in range(episodes) for array in arrays(protocol.episode(pool, 7, index))]
    return hashlib.sha256(b"|".join(array.astype("<i8").tobytes() for array in numbers)).hexdigest()[:16]


def assert_sound(episode: Episode, pool: Pool) -> None:
    """What holds for an episode of any protocol."""
    assert len(set(episode.classes.tolist())) == len(episode.classes)
    support = np.concatenate([session.support for session in episode.sessions])
    query = episode.sessions[-1].query
    assert len(set(support.tolist())) == len(support)
    assert len(set(query.tolist())) == len(query)
    assert not set(support.tolist()) & set(query.tolist())
    for session in episode.sessions:
        for images, labels in ((session.support, session.support_labels), (session.query, session.query_labels)):
            assert images.dtype == labels.dtype == np.int64
            np.testing.assert_array_equal(pool.labels[images], episode.classes_of(session)[labels])
            assert (np.diff(labels) >= 0).all()
        assert set(session.query_labels.tolist()) == set(range(session.way))
    assert episode.sessions[-1].first + episode.sessions[-1].way == len(episode.classes)


# --- random numbers ------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**40)
names = st.text(max_size=8)


@given(seeds, names, st.integers(0, 10**6), st.integers(0, 60), st.data())
def test_chosen_things_are_different_ones_and_fewer_are_the_first_of_more(seed, name, index, n, data):
    k = data.draw(st.integers(0, n))
    chosen = Draws(seed, name, index).choose(n, n).tolist()
    assert sorted(chosen) == list(range(n))
    assert Draws(seed, name, index).choose(n, k).tolist() == chosen[:k]


@given(seeds, st.integers(-5, 5), st.integers(0, 1000))
def test_numbers_are_in_their_range(seed, low, extent):
    draws = Draws(seed, "", 0)
    assert low <= draws.integer(low, low + extent) <= low + extent
    assert draws.integer(low, low) == low
    uniform = draws.uniform(100)
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert (uniform * 2**53 == np.floor(uniform * 2**53)).all()


def test_numbers_are_uniform():
    draws = Draws(0, "uniform", 0)
    assert np.histogram(draws.uniform(100_000), 10, (0, 1))[0] == pytest.approx(10_000, abs=400)  # 4 deviations
    whole = [draws.integer(3, 7) for _ in range(10_000)]
    assert np.bincount(whole, minlength=8).tolist()[:3] == [0, 0, 0]
    assert np.bincount(whole)[3:] == pytest.approx(2000, abs=160)


def test_seed_name_and_index_each_make_another_stream():
    streams = [Draws(*key).uniform(4).tolist() for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]]
    assert len({tuple(stream) for stream in streams}) == 4
    assert Draws(1, "1 x", 2).uniform(1) != Draws(1, "x", 21).uniform(1)


def test_a_name_may_be_broken_unicode():
    assert Draws(0, "caf\udce9", 0).uniform(1) != Draws(0, "café", 0).uniform(1)


def test_the_stream_is_what_it_was():
    """Another hash means that all published episodes change: not an improvement, whatever its reason."""
    draws = Draws(0, "photo -> sketch", 12)
    assert (draws.uniform(2) * 2**53).astype(np.int64).tolist() == [1514969612556936, 1614692168997407]
    assert draws.choose(6, 6).tolist() == [0, 2, 4, 5, 1, 3]
    assert [draws.integer(0, 10**6) for _ in range(2)] == [155719, 409702]


FIXED_POOL = pool([30] * 20)
UNEVEN_POOL = pool([2, 3, 5, 8, 13, 21, 34, 55, 89, 144], name="uneven")
TREE_POOL = pool([12] * 30, name="tree", nodes={"b": tuple(range(30)), "a": (1, 2, 4, 8, 16), "leaf": (3,)})
SCRIPT_POOL = pool([20] * 30, name="scripts", superclasses={"b": tuple(range(18)), "a": tuple(range(18, 30))})
DOMAIN_POOL = pool([9, 8, 7, 10], [5, 9, 6, 7], [20, 4, 9, 5], name="all but domain2 -> domain2")
PAIR_POOL = pool([9, 8, 7, 10, 8], [25, 19, 16, 17, 15], name="domain0 -> domain1")

FINGERPRINTS = [
    (Fixed(), FIXED_POOL, "c2151d7fd3864373"),
    (MetaDataset(), UNEVEN_POOL, "a4193e7bf61e6dfb"),
    (MetaDataset(), TREE_POOL, "1f0a04abf20bc33c"),
    (MetaDataset(), SCRIPT_POOL, "71d914fb8e836ef9"),
    (MetaDataset(hierarchy=False), TREE_POOL, "c348b79b109263e4"),
    (Across(), PAIR_POOL, "0619ee8e98ac8118"),
    (LeaveOneOut(queries="all"), DOMAIN_POOL, "6febd85f1a08cf10"),
    (Incremental(base_way=6, sessions=2), FIXED_POOL, "460f312a34096f00"),
]


@pytest.mark.parametrize(("protocol", "pool", "expected"), FINGERPRINTS)
def test_episodes_are_what_they_were(protocol, pool, expected):
    assert fingerprint(protocol, pool) == expected


@pytest.mark.parametrize(("protocol", "pool", "_"), FINGERPRINTS)
def test_an_episode_is_the_same_whatever_was_drawn_before(protocol, pool, _):
    wanted = arrays(protocol.episode(pool, 3, 5))
    np.random.seed(1)
    protocol.episode(pool, 3, 4)
    for again, once in zip(arrays(protocol.episode(pool, 3, 5)), wanted, strict=True):
        np.testing.assert_array_equal(again, once)
    others = [protocol.episode(pool, 3, 6), protocol.episode(pool, 4, 5)]
    assert all(fingerprint_of(other) != fingerprint_of(protocol.episode(pool, 3, 5)) for other in others)


def fingerprint_of(episode: Episode) -> bytes:
    return b"|".join(array.tobytes() for array in arrays(episode))


# --- N-way K-shot --------------------------------------------------------------------------------------------------


@st.composite
def fixed_tasks(draw):
    protocol = Fixed(
        way=draw(st.integers(2, 6) | st.just("all")), shots=draw(st.integers(1, 6)), queries=draw(st.integers(1, 6))
    )
    least = protocol.shots + protocol.queries
    sizes = draw(st.lists(st.integers(least, least + 10), min_size=6, max_size=9))
    return protocol, pool(sizes), draw(seeds), draw(st.integers(0, 100))


@given(fixed_tasks())
def test_fixed_episodes_hold_what_was_asked_for(task):
    protocol, pool, seed, index = task
    protocol.check(pool)
    episode = protocol.episode(pool, seed, index)
    assert_sound(episode, pool)
    (session,) = episode.sessions
    way = len(pool.classes) if protocol.way == "all" else protocol.way
    assert np.bincount(session.support_labels).tolist() == [protocol.shots] * way
    assert np.bincount(session.query_labels).tolist() == [protocol.queries] * way


@pytest.mark.slow
@given(fixed_tasks(), st.data())
def test_episodes_with_fewer_shots_queries_or_classes_are_part_of_those_with_more(task, data):
    protocol, pool, seed, index = task
    more = protocol.episode(pool, seed, index)
    way = data.draw(st.integers(2, len(more.classes)))
    shots, queries = data.draw(st.integers(1, protocol.shots)), data.draw(st.integers(1, protocol.queries))
    less = Fixed(way=way, shots=shots, queries=queries).episode(pool, seed, index)
    np.testing.assert_array_equal(less.classes, more.classes[:way])
    for part, count in (("support", shots), ("query", queries)):
        all_of = getattr(more.sessions[0], part).reshape(len(more.classes), -1)
        np.testing.assert_array_equal(getattr(less.sessions[0], part).reshape(way, -1), all_of[:way, :count])


@pytest.mark.slow
def test_every_class_and_every_image_is_as_likely_as_the_others():
    small = pool([8] * 6)
    support, query, classes, together = np.zeros(48), np.zeros(48), np.zeros(6), np.zeros((8, 8))
    for index in range(6000):
        episode = Fixed(way=3, shots=2, queries=3).episode(small, 0, index)
        (session,) = episode.sessions
        support[session.support] += 1
        query[session.query] += 1
        classes[episode.classes] += 1
        of_first = np.searchsorted(small.by_class[episode.classes[0]], session.support[:2])
        together[of_first[0], of_first[1]] += 1
    assert classes == pytest.approx(3000, abs=4 * 39)
    assert support == pytest.approx(6000 / 2 * 2 / 8, abs=4 * 26)
    assert query == pytest.approx(6000 / 2 * 3 / 8, abs=4 * 31)
    assert together[~np.eye(8, dtype=bool)] == pytest.approx(6000 / 56, abs=4 * 10.3)


# --- fixed splits --------------------------------------------------------------------------------------------------


def split(*sizes: tuple[int, int], name: str = "split") -> Pool:
    """A pool with these numbers of images to learn from, and to ask about, of each class."""
    plain = pool([learned + asked for learned, asked in sizes], name=name)
    roles = np.empty(len(plain.labels), np.int64)
    for images, (learned, asked) in zip(plain.by_class, sizes, strict=True):
        roles[images] = Draws(0, "roles", 0).shuffled(np.repeat([SUPPORT, QUERY], [learned, asked]))
    return replace(plain, roles=roles)


SPLIT_POOL = split((5, 3), (4, 6), (6, 3), (4, 4), (9, 3))


@pytest.mark.parametrize(
    "protocol",
    [
        Fixed(way=3, shots=4, queries=3),
        Fixed(way="all", shots=2, queries="all"),
        Incremental(base_way=2, base_shots=4, sessions=3, way=1, shots=3, queries=3),
        BaseToNew(shots=3),
        BaseToNew(shots=4, queries=2),
    ],
)
@given(seed=seeds)
def test_a_fixed_split_keeps_what_is_learned_from_and_what_is_asked_about_apart(protocol, seed):
    protocol.check(SPLIT_POOL)
    episode = protocol.episode(SPLIT_POOL, seed, 1)
    assert_sound(episode, SPLIT_POOL)
    for session in episode.sessions:
        assert set(SPLIT_POOL.roles[session.support].tolist()) <= {SUPPORT}
        assert set(SPLIT_POOL.roles[session.query].tolist()) == {QUERY}
        if protocol.queries == "all":
            asked = [len(SPLIT_POOL.to_ask(SPLIT_POOL.by_class[c])) for c in episode.classes_of(session)]
            assert np.bincount(session.query_labels).tolist() == asked


@given(seed=seeds)
def test_across_domains_each_keeps_its_own_split(seed):
    other = replace(split((3, 2), (3, 2), (3, 2), (3, 2), (3, 2)), name="other")
    plain = replace(pool([5] * 5), name="plain")
    joint, _ = join("split", [SPLIT_POOL, other, plain])
    protocol = Across(way=3, shots=4, queries="all", in_distribution=True)
    protocol.check(joint)
    episode = protocol.episode(joint, seed, 0)
    assert [len(session.query) for session in episode.sessions[1:]] == [6, 15]
    assert set(joint.roles[episode.sessions[0].support].tolist()) == {SUPPORT}
    assert set(joint.roles[episode.sessions[0].query].tolist()) == {QUERY}
    pair, _ = join("split -> other", [SPLIT_POOL, other])
    (session,) = Across(way=3, shots="all", queries=2).episode(pair, seed, 0).sessions
    assert set(pair.roles[session.support].tolist()) == {SUPPORT} and set(pair.domains[session.query].tolist()) == {1}
    assert set(pair.roles[session.query].tolist()) == {QUERY}


def test_what_a_fixed_split_lacks_is_said():
    with pytest.raises(FewshotError, match="'class1' has 4 images to learn from; 5 shots need 5"):
        Fixed(shots=5, queries=3).check(SPLIT_POOL)
    with pytest.raises(FewshotError, match="has 3 images to ask about; 4 queries need 4"):
        Fixed(shots=4, queries=4).check(SPLIT_POOL)
    with pytest.raises(FewshotError, match="split is a fixed split, and meta-dataset"):
        MetaDataset().check(SPLIT_POOL)


def test_a_split_of_just_the_support_set_is_one_episode():
    just = split((2, 5), (2, 3), (2, 4), (2, 6))
    assert all_alike(Fixed(way="all", shots=2, queries="all"), just)
    assert all_alike(BaseToNew(shots=2), just)
    assert not all_alike(Fixed(way="all", shots=1, queries="all"), just)
    assert not all_alike(Fixed(way=3, shots=2, queries="all"), just)
    assert not all_alike(Fixed(way="all", shots=2, queries=3), just)
    assert not all_alike(Fixed(way="all", shots=2, queries="all"), pool([5] * 4))


# --- base to new ---------------------------------------------------------------------------------------------------


@given(st.integers(4, 9), st.integers(1, 4), st.integers(1, 4) | st.just("all"), seeds, st.integers(0, 100))
def test_half_of_the_classes_is_learned_and_the_rest_only_asked_about(n, shots, queries, seed, index):
    sizes = [8 + c for c in range(n)]
    drawn, protocol = pool(sizes), BaseToNew(shots=shots, queries=queries)
    protocol.check(drawn)
    episode = protocol.episode(drawn, seed, index)
    assert_sound(episode, drawn)
    base, new = episode.sessions
    known = math.ceil(n / 2)
    assert episode.classes.tolist() == list(range(n))
    assert (base.first, base.way, new.first, new.way) == (0, known, known, n - known)
    assert np.bincount(base.support_labels).tolist() == [shots] * known and len(new.support) == 0
    asked = [size - shots if queries == "all" else queries for size in sizes[:known]]
    assert np.bincount(base.query_labels).tolist() == asked
    named = [size if queries == "all" else queries for size in sizes[known:]]
    assert np.bincount(new.query_labels).tolist() == named
    more = BaseToNew(shots=shots + 1, queries=queries).episode(drawn, seed, index)
    assert set(base.support) <= set(more.sessions[0].support)
    np.testing.assert_array_equal(new.query, more.sessions[1].query)


def test_base_to_new_says_what_is_lacking():
    with pytest.raises(FewshotError, match="3 classes; base-to-new needs four"):
        BaseToNew(shots=1).check(pool([9] * 3))
    with pytest.raises(FewshotError, match="'class1' has 2 images; 2 shots and 1 query need 3"):
        BaseToNew(shots=2).check(pool([9, 2, 9, 1]))
    with pytest.raises(FewshotError, match="'class3' has 1 image; 2 queries need 2"):
        BaseToNew(shots=2, queries=2).check(pool([9, 9, 9, 1]))
    BaseToNew(shots=2).check(pool([9, 9, 9, 1]))


# --- Meta-Dataset --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(2, 60), min_size=5, max_size=20), seeds, st.integers(0, 1000))
def test_meta_dataset_episodes_keep_the_rules(sizes, seed, index):
    uneven = pool(sizes)
    protocol = MetaDataset(max_way=10, max_support=80)
    protocol.check(uneven)
    episode = protocol.episode(uneven, seed, index)
    assert_sound(episode, uneven)
    (session,) = episode.sessions
    assert 5 <= session.way <= min(10, len(sizes))
    chosen = np.array(sizes)[episode.classes]
    shots, queries = np.bincount(session.support_labels), np.bincount(session.query_labels)
    assert set(queries.tolist()) == {min(10, chosen.min() // 2)}
    assert (shots >= 1).all()
    assert (shots + queries <= chosen).all()
    assert len(session.support) <= 80


@given(seeds, st.integers(0, 1000))
def test_hierarchies_decide_which_classes_come_together(seed, index):
    tree = MetaDataset(max_way=20).episode(TREE_POOL, seed, index).classes.tolist()
    assert sorted(tree) == [1, 2, 4, 8, 16] or len(tree) == 20
    scripts = MetaDataset().episode(SCRIPT_POOL, seed, index).classes
    assert (scripts < 18).all() or (scripts >= 18).all()


def test_without_a_hierarchy_an_episode_is_that_of_a_plain_pool():
    plain = Pool(TREE_POOL.name, TREE_POOL.classes, TREE_POOL.labels, TREE_POOL.domains, TREE_POOL.domain_names)
    for index in range(5):
        ignored = MetaDataset(hierarchy=False).episode(TREE_POOL, 0, index)
        assert fingerprint_of(ignored) == fingerprint_of(MetaDataset().episode(plain, 0, index))


def test_with_beta_zero_every_class_has_one_shot():
    amounts = amounts_of(MetaDataset(), np.array([30, 4, 900]), 0.0, np.array([0.1, -0.5, 0.6]))
    assert (amounts.queries, amounts.shots.tolist(), amounts.asked) == (2, [1, 1, 1], 3)


def test_amounts_are_the_published_ones(golden):
    vectors, _ = golden("md_sampler")
    arith = {key.removeprefix("arith."): values.numpy() for key, values in vectors.items() if key.startswith("arith.")}
    assert len(arith["ways"]) == 274
    for i, way in enumerate(arith["ways"]):
        log_weights = arith["log_weight"][i, :way].astype(np.float64)
        amounts = amounts_of(MetaDataset(), arith["num_images"][i, :way], float(arith["beta"][i]), log_weights)
        assert amounts.queries == arith["num_query"][i]
        assert amounts.asked == arith["support_requested"][i]
        np.testing.assert_array_equal(amounts.shots, arith["support_per_class"][i, :way])


def test_queries_are_the_published_ones(golden):
    """Of the published table the rows in which the shots vary."""
    rows = golden("md_sampler")[0]["fixedshot.min_images_lo_hi_query"].tolist()
    varying = [(smallest, queries) for smallest, low, _, queries in rows if low == 0]
    assert varying
    for smallest, queries in varying:
        assert amounts_of(MetaDataset(), np.array([smallest, 700]), 0.5, np.zeros(2)).queries == queries


EPISODES = 40_000  # as many of each list as take about ten seconds together
PUBLISHED = 60_000


def published_pool(vectors, config, which: str) -> Pool:
    sizes = vectors[f"{which}.sizes"].numpy()
    labels = np.repeat(np.arange(len(sizes)), sizes)
    nodes, superclasses = {}, {}
    if which == "H":
        membership = vectors["H.node_membership"].numpy()
        rows = zip(config["hierarchy_nodes"], membership, strict=True)
        nodes = {name: tuple(np.flatnonzero(row).tolist()) for name, row in rows}
    if which == "O":
        ends = np.cumsum(vectors["O.chars_per_alphabet"].numpy()).tolist()
        superclasses = {f"{end}": tuple(range(start, end)) for start, end in zip([0, *ends], ends, strict=False)}
    classes = tuple(f"class{number}" for number in range(len(sizes)))
    return Pool(which, classes, labels, np.zeros_like(labels), (which,), nodes, superclasses)


def total_variation(own: np.ndarray, published: np.ndarray) -> float:
    published = np.pad(published, (0, max(0, len(own) - len(published))))
    own = np.pad(own, (0, len(published) - len(own)))
    return float(np.abs(own / own.sum() - published / published.sum()).sum() / 2)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["A", "B", "C", "O", "H"])
def test_episodes_are_distributed_like_the_published_ones(golden, which):
    vectors, config = golden("md_sampler")
    published = {key[2:]: values.numpy() for key, values in vectors.items() if key.startswith(f"{which}.")}
    pool, protocol = published_pool(vectors, config, which), MetaDataset()
    protocol.check(pool)
    found = [description(protocol, pool, Draws(0, pool.name, index)) for index in range(EPISODES)]

    way = np.array([len(classes) for classes, _ in found])
    queries = np.array([amounts.queries for _, amounts in found])
    total = np.array([amounts.shots.sum() for _, amounts in found])
    asked = np.array([amounts.asked for _, amounts in found])
    largest = np.array([amounts.shots.max() for _, amounts in found]) / total
    columns = np.stack([way, way**2, total, total**2, queries, asked, asked - total, largest], 1).astype(np.float64)
    error = columns.std(0) * np.sqrt(1 / EPISODES + 1 / PUBLISHED)
    assert (np.abs(columns.mean(0) - published["mean"]) <= 4 * error + 1e-6 * published["mean"]).all()  # it is float32

    for number in np.flatnonzero(published["by_way"][:, 0] > 500):
        episodes, totals, query_sums = published["by_way"][number]
        own = np.stack([total[way == number], queries[way == number]], 1)
        error = own.std(0) * np.sqrt(1 / len(own) + 1 / episodes)
        theirs = np.array([totals, query_sums]) / episodes
        assert (np.abs(own.mean(0) - theirs) <= 5 * error + 1e-6 * theirs).all()  # 5, for there are 46 ways

    # 1.5 times what an independent sampler with as many episodes as the published one reached.
    shots = np.concatenate([amounts.shots for _, amounts in found])
    classes = np.concatenate([classes for classes, _ in found])
    assert total_variation(np.bincount(way), published["hist_ways"]) <= 1.5 * 0.018
    assert total_variation(np.bincount(queries), published["hist_query"]) <= 1.5 * 0.0053
    assert total_variation(np.bincount(shots), published["hist_shots"]) <= 1.5 * 0.0064
    assert total_variation(np.bincount(total), published["hist_support_total"]) <= 1.5 * 0.049
    assert total_variation(np.bincount(asked), published["hist_support_requested"]) <= 1.5 * 0.049
    assert total_variation(np.bincount(classes), published["class_count"]) <= 1.5 * 0.020


@pytest.mark.parametrize("pool", [UNEVEN_POOL, TREE_POOL, SCRIPT_POOL], ids=lambda pool: pool.name)
def test_an_episode_takes_what_its_description_says(pool):
    for index in range(20):
        classes, amounts = description(MetaDataset(), pool, Draws(0, pool.name, index))
        episode = MetaDataset().episode(pool, 0, index)
        np.testing.assert_array_equal(episode.classes, classes)
        np.testing.assert_array_equal(np.bincount(episode.sessions[0].support_labels), amounts.shots)
        assert (np.bincount(episode.sessions[0].query_labels) == amounts.queries).all()


# --- between domains -----------------------------------------------------------------------------------------------

counts = st.integers(1, 4) | st.just("all")


@st.composite
def domain_tasks(draw, domains):
    sizes = st.lists(st.integers(4, 9), min_size=5, max_size=5)
    way, shots, queries = draw(st.integers(2, 5) | st.just("all")), draw(counts), draw(counts)
    images = pool(*[draw(sizes) for _ in range(domains)])
    return {"way": way, "shots": shots, "queries": queries}, images, draw(seeds)


def assert_across(episode: Episode, pool: Pool, way, shots, queries) -> None:
    assert_sound(episode, pool)
    (session,) = episode.sessions
    assert session.way == (5 if way == "all" else way)
    *sources, target = range(len(pool.domain_names))
    assert set(pool.domains[session.support].tolist()) == set(sources)
    assert set(pool.domains[session.query].tolist()) == {target}
    for label, c in enumerate(episode.classes):
        for domain in sources:
            taken = (session.support_labels == label) & (pool.domains[session.support] == domain)
            assert taken.sum() == (len(pool.by_domain[domain][c]) if shots == "all" else shots)
        asked = (session.query_labels == label).sum()
        assert asked == (len(pool.by_domain[target][c]) if queries == "all" else queries)


@pytest.mark.slow
@given(domain_tasks(domains=2))
def test_across_learns_from_the_first_domain_and_asks_about_the_second(task):
    given, pool, seed = task
    Across(**given).check(pool)
    assert_across(Across(**given).episode(pool, seed, 0), pool, **given)


@given(domain_tasks(domains=4))
def test_leave_one_out_learns_from_every_domain_but_the_last(task):
    given, pool, seed = task
    LeaveOneOut(**given).check(pool)
    assert_across(LeaveOneOut(**given).episode(pool, seed, 0), pool, **given)


@given(domain_tasks(domains=3), st.integers(1, 3))
def test_across_domains_too_fewer_shots_are_part_of_more(task, shots):
    given, pool, seed = task
    more = LeaveOneOut(**given | {"shots": 4}).episode(pool, seed, 0)
    less = LeaveOneOut(**given | {"shots": shots}).episode(pool, seed, 0)
    np.testing.assert_array_equal(less.classes, more.classes)
    np.testing.assert_array_equal(less.sessions[0].query, more.sessions[0].query)
    assert set(less.sessions[0].support.tolist()) < set(more.sessions[0].support.tolist())


@given(domain_tasks(domains=3), st.integers(1, 3))
def test_in_distribution_the_first_domain_is_drawn_as_alone_and_every_other_is_asked_about(task, shots):
    given, three, seed = task
    queries = given["queries"] if given["queries"] == "all" else min(given["queries"], 4 - shots)
    settings = given | {"shots": shots, "queries": queries}
    protocol = Across(**settings, in_distribution=True)
    protocol.check(three)
    episode = protocol.episode(three, seed, 0)
    own, *shifted = episode.sessions
    rows = np.flatnonzero(three.domains == 0)
    alone = Pool(three.name, three.classes, three.labels[rows], three.domains[rows], ("",))
    (fixed,) = Fixed(**settings).episode(alone, seed, 0).sessions
    np.testing.assert_array_equal(own.support, rows[fixed.support])
    np.testing.assert_array_equal(own.query, rows[fixed.query])
    for domain, session in enumerate(shifted, start=1):
        assert len(session.support) == 0 and session.way == own.way
        assert set(three.domains[session.query].tolist()) == {domain}
        np.testing.assert_array_equal(three.labels[session.query], episode.classes[session.query_labels])
        for label, c in enumerate(episode.classes):
            asked = (session.query_labels == label).sum()
            assert asked == (len(three.by_domain[domain][c]) if queries == "all" else queries)


def test_in_distribution_each_data_set_that_is_no_target_is_learned_from():
    protocol = Across(in_distribution=True)
    assert protocol.pools(["a", "b", "c"], ["b", "c"]) == [PoolPlan("a", ("a",), ("b", "c"))]
    assert protocol.pools(["a", "b"]) == [PoolPlan("a", ("a",), ("b",)), PoolPlan("b", ("b",), ("a",))]
    assert protocol.pools(["a", "b"], ["a", "b"]) == protocol.pools(["a", "b"])
    with pytest.raises(FewshotError, match="needs two data sets"):
        protocol.pools(["a"])
    with pytest.raises(FewshotError, match="--shots all leaves no image of domain0"):
        Across(shots="all", in_distribution=True).check(PAIR_POOL)
    with pytest.raises(FewshotError, match="'class2' has 7 images in domain0; 5 shots and 15 queries need 20"):
        protocol.check(PAIR_POOL)


@given(fixed_tasks())
def test_all_queries_are_all_images_that_are_no_support(task):
    protocol, images, seed, index = task
    some = protocol.episode(images, seed, index)
    every = Fixed(way=protocol.way, shots=protocol.shots, queries="all").episode(images, seed, index)
    assert_sound(every, images)
    np.testing.assert_array_equal(every.sessions[0].support, some.sessions[0].support)
    of_classes = {row for c in every.classes for row in images.by_class[c].tolist()}
    assert set(every.sessions[0].query.tolist()) == of_classes - set(every.sessions[0].support.tolist())
    with pytest.raises(FewshotError, match="and 1 query need"):
        Fixed(shots=int(images.sizes.min()), queries="all").check(images)


def test_one_episode_is_enough_where_all_take_the_same_images():
    everything = {"way": "all", "shots": "all", "queries": "all"}
    assert all_alike(LeaveOneOut(**everything), DOMAIN_POOL)
    assert all_alike(Across(shots=3, queries="all"), pool([3] * 5, [4, 5, 6, 7, 8]))
    assert not all_alike(Across(shots=2, queries="all"), pool([3] * 5, [4, 5, 6, 7, 8]))
    assert not all_alike(Across(**everything | {"way": 3}), PAIR_POOL)
    assert not all_alike(Fixed(), FIXED_POOL)
    episodes = [LeaveOneOut(**everything).episode(DOMAIN_POOL, seed, 0).sessions[0] for seed in range(2)]
    assert set(episodes[0].support.tolist()) == set(episodes[1].support.tolist())


# --- class by class ------------------------------------------------------------------------------------------------


@given(
    st.integers(2, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    seeds,
)
def test_incremental_episodes_add_classes_and_keep_the_queries(
    base_way, sessions, way, queries, base_shots, shots, seed
):
    images = pool([queries + max(base_shots, shots)] * (base_way + sessions * way))
    protocol = Incremental(
        base_way=base_way, base_shots=base_shots, sessions=sessions, way=way, shots=shots, queries=queries
    )
    protocol.check(images)
    episode = protocol.episode(images, seed, 0)
    assert_sound(episode, images)
    base, *later = episode.sessions
    assert [session.way for session in episode.sessions] == [base_way + i * way for i in range(sessions + 1)]
    np.testing.assert_array_equal(base.support_labels, np.repeat(np.arange(base_way), base_shots))
    known = base
    for session in later:
        np.testing.assert_array_equal(session.support_labels, np.repeat(np.arange(known.way, session.way), shots))
        np.testing.assert_array_equal(session.query[: len(known.query)], known.query)
        np.testing.assert_array_equal(session.query_labels, np.repeat(np.arange(session.way), queries))
        known = session


# --- pools ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [Fixed(), MetaDataset(), Incremental()])
def test_within_data_sets_each_is_a_pool(protocol):
    assert protocol.pools(["photo", "sketch"]) == [
        PoolPlan("photo", ("photo",)),
        PoolPlan("sketch", ("sketch",)),
    ]
    with pytest.raises(FewshotError, match="no target such as sketch"):
        protocol.pools(["photo"], ["sketch"])


def test_across_makes_a_pool_of_each_ordered_pair_or_of_each_source_and_target():
    assert [plan.name for plan in Across().pools(["a", "b", "c"])] == [
        *("a -> b", "a -> c", "b -> a", "b -> c", "c -> a", "c -> b")
    ]
    assert [plan.name for plan in Across().pools(["a", "b"], ["b", "c"])] == ["a -> b", "a -> c", "b -> c"]
    (plan,) = Across().pools(["a"], ["b"])
    assert (plan.support, plan.query, plan.datasets) == (("a",), ("b",), ("a", "b"))


def test_leave_one_out_makes_a_pool_for_each_held_out_data_set():
    assert LeaveOneOut().pools(["a", "b", "c"])[1] == PoolPlan("all but b -> b", ("a", "c"), ("b",))
    assert LeaveOneOut().pools(["a", "b", "c"], ["c"]) == [PoolPlan("all but c -> c", ("a", "b"), ("c",))]


@pytest.mark.parametrize("protocol", [Across(), LeaveOneOut()])
def test_between_domains_there_must_be_two(protocol):
    with pytest.raises(FewshotError, match=f"{protocol.name} needs two data sets or more .* only photo"):
        protocol.pools(["photo"])


@pytest.mark.parametrize("protocol", [Fixed(), Across(), LeaveOneOut()])
def test_two_data_sets_of_one_name_are_a_mistake(protocol):
    with pytest.raises(FewshotError, match="Two data sets are called 'photo'"):
        protocol.pools(["photo", "sketch", "photo"])


def named(name, classes, labels) -> Pool:
    return Pool(name, classes, np.array(labels), np.zeros(len(labels), np.int64), (name,))


def test_a_joint_pool_matches_classes_by_name_and_knows_where_each_image_is_from():
    photo = named("photo", ("cat", "dog"), [0, 0, 1])
    sketch = named("sketch", ("dog", "cat"), [0, 1, 1, 0])
    joint, places = join("photo -> sketch", [photo, sketch])
    assert (joint.name, joint.classes, joint.domain_names) == ("photo -> sketch", ("cat", "dog"), ("photo", "sketch"))
    assert joint.domains.tolist() == [0, 0, 0, 1, 1, 1, 1]
    for label, (dataset, image) in zip(joint.labels, places, strict=True):
        source = (photo, sketch)[dataset]
        assert joint.classes[label] == source.classes[source.labels[image]]
    assert places[3:].tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]


def test_a_single_data_set_is_a_joint_pool_already():
    joint, places = join("scripts", [SCRIPT_POOL])
    assert joint is SCRIPT_POOL
    np.testing.assert_array_equal(places[:, 1], np.arange(600))
    assert not places[:, 0].any()


def test_a_class_that_a_domain_lacks_is_a_mistake():
    photo, sketch = named("photo", ("cat", "dog", "elk"), [0, 1, 2]), named("sketch", ("cat",), [0])
    for pools in ([photo, sketch], [sketch, photo]):
        with pytest.raises(FewshotError, match="sketch lacks 'dog', 'elk', which photo has") as error:
            join("joint", pools)
        assert "rename" in error.value.hint


def test_what_is_only_asked_about_may_have_a_part_of_the_classes():
    photo = named("photo", ("cat", "dog", "elk"), [0, 1, 2, 0, 1, 2])
    joint, _ = join("photo -> sketch", [photo, named("sketch", ("elk", "cat"), [0, 0, 1])], asked=1)
    assert joint.classes == ("cat", "dog", "elk") and joint.labels[joint.domains == 1].tolist() == [2, 2, 0]
    for protocol in (Across(way="all", shots=1, queries=1), Across(way=3, shots=1, queries="all")):
        protocol.check(joint)
        (session,) = protocol.episode(joint, 0, 0).sessions
        assert session.way == 3 and len(session.support) == 3
        assert set(joint.labels[session.query]) == {0, 2} and set(joint.domains[session.query]) == {1}
    both = Across(way="all", shots=1, queries=1, in_distribution=True)
    both.check(joint)
    own, shifted = both.episode(joint, 0, 0).sessions
    assert set(joint.labels[own.query]) == {0, 1, 2} and set(joint.labels[shifted.query]) == {0, 2}
    assert own.way == shifted.way == 3


@pytest.mark.parametrize("in_distribution", [False, True])
def test_a_part_of_the_classes_must_be_enough_to_ask_about(in_distribution):
    photo, sketch = named("photo", ("cat", "dog", "elk"), [0, 1, 2] * 3), named("sketch", ("elk", "cat"), [0, 0, 1])
    joint, _ = join("photo -> sketch", [photo, sketch], asked=1)
    with pytest.raises(FewshotError, match=r"sketch has 2 of the 3 classes that are learned, .* --way 2") as error:
        Across(way=2, shots=1, queries=1, in_distribution=in_distribution).check(joint)
    assert "--way all" in error.value.hint
    with pytest.raises(FewshotError, match="the class 'cat' has 1 image in sketch; 2 queries need 2"):
        Across(way="all", shots=1, queries=2, in_distribution=in_distribution).check(joint)


def test_what_was_never_learned_is_not_asked_about():
    photo, sketch = named("photo", ("cat", "dog"), [0, 1]), named("sketch", ("cat", "elk"), [0, 1])
    with pytest.raises(FewshotError, match="sketch has 'elk', which photo lacks: what was not learned") as error:
        join("photo -> sketch", [photo, sketch], asked=1)
    assert "--target" in error.value.hint
    with pytest.raises(FewshotError, match="sketch has no image of the class 'dog' to ask about"):
        join("photo -> sketch", [photo, named("sketch", ("cat", "dog"), [0, 0])], asked=1)


# --- what is too small ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "pool", "problem", "hint"),
    [
        (
            Fixed(shots=5, queries=16),
            pool([30, 20, 30, 30, 30], name="omniglot"),
            "omniglot: the class 'class1' has 20 images; 5 shots and 16 queries need 21.",
            "Use --shots 4 or --queries 15, or add images, or take the class out.",
        ),
        (
            Fixed(way=2, shots=1, queries=3),
            pool([1, 3, 2, 9]),
            "pool: the class 'class0' has 1 image; 1 shot and 3 queries need 4. 2 classes more have too few.",
            "Add images, or take the class out.",
        ),
        (Fixed(way=10), pool([30] * 7, name="photo"), "photo has 7 classes, fewer than --way 10.", "Use --way 7."),
        (Fixed(way="all"), pool([30]), "pool has 1 class; telling apart takes two.", "Add another class."),
        (
            MetaDataset(),
            pool([9] * 3),
            "pool has 3 classes, fewer than min_way 5.",
            "Use --set protocol.min_way=3.",
        ),
        (
            MetaDataset(),
            pool([9, 9, 9, 9, 1]),
            "pool: the class 'class4' has 1 image; 1 shot and 1 query need 2.",
            "Add images, or take the class out.",
        ),
        (
            MetaDataset(),
            pool([9] * 9, superclasses={"Greek": tuple(range(5)), "Ogham": (5, 6, 7, 8)}),
            "pool: the superclass 'Ogham' has 4 classes, fewer than min_way 5.",
            "Use --set protocol.min_way=4, or --set protocol.hierarchy=false, or take the superclass out.",
        ),
        (
            MetaDataset(max_node=8),
            pool([9] * 9, nodes={"root": tuple(range(9)), "dog": (1, 2)}),
            "pool: no node has from 5 to 8 classes.",
            "Use --set protocol.hierarchy=false, or another min_way and max_node.",
        ),
        (
            Across(way=2, queries=6),
            pool([9, 9], [9, 4], name="domain0 -> domain1"),
            "domain0 -> domain1: the class 'class1' has 4 images in domain1; 6 queries need 6.",
            "Use --queries 4, or add images, or take the class out.",
        ),
        (
            LeaveOneOut(shots="all", queries="all"),
            pool([9, 9], [9, 0], [9, 9]),
            "pool: the class 'class1' has 0 images in domain1; 1 shot needs 1.",
            "Add images, or take the class out.",
        ),
        (
            Incremental(base_way=4, sessions=3, way=2),
            pool([30] * 9),
            "pool has 9 classes; 4 at first and 3 times 2 more are 10.",
            "Use --sessions 2, or a smaller --base-way or --way.",
        ),
        (
            Incremental(base_way=4, sessions=1, way=2, base_shots=10, queries=5),
            pool([12] * 6),
            "pool: the class 'class0' has 12 images; 10 base shots and 5 queries need 15. 5 classes more have too few.",
            "Use --set protocol.base_shots=7 or --queries 2, or add images, or take the class out.",
        ),
    ],
)
def test_what_is_too_small_is_named_with_what_would_fit(protocol, pool, problem, hint):
    with pytest.raises(FewshotError) as error:
        protocol.check(pool)
    assert (error.value.problem, error.value.hint) == (problem, hint)


def test_a_node_or_class_that_is_never_drawn_may_be_small():
    MetaDataset().check(pool([9] * 5 + [1], nodes={"all": tuple(range(5)), "small": (4, 5)}))


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=6), st.integers(2, 7), st.integers(1, 6), st.integers(1, 6))
def test_following_the_hints_leads_to_an_episode(sizes, way, shots, queries):
    images, protocol = pool(sizes), Fixed(way=way, shots=shots, queries=queries)
    for _ in range(3):
        try:
            protocol.check(images)
        except FewshotError as error:
            found = re.match(r"Use --(\w+) (\d+)", error.hint)
            if not found:
                assert min(sizes) < 1 + min(shots, queries)
                return
            protocol = protocol.model_copy(update={found[1]: int(found[2])})
    protocol.check(images)
    assert_sound(protocol.episode(images, 0, 0), images)


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Fixed, MetaDataset, Across, LeaveOneOut, Incremental])
def test_a_protocol_is_told_by_its_name_and_survives_being_written(kind):
    adapter = TypeAdapter(AnyProtocol)
    protocol = adapter.validate_python({"name": kind.model_fields["name"].default})
    assert protocol == kind()
    assert adapter.validate_json(protocol.model_dump_json()) == protocol


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "fixed", "way": 1},
        {"name": "fixed", "shots": 0},
        {"name": "fixed", "shots": "all"},
        {"name": "across", "queries": "some"},
        {"name": "meta-dataset", "min_way": 9, "max_way": 8},
        {"name": "meta-dataset", "min_way": 9, "max_node": 8},
        {"name": "meta-dataset", "max_support": 40},
        {"name": "meta-dataset", "log_weights": [1, 0]},
        {"name": "incremental", "sessions": 0},
        {"name": "other"},
    ],
)
def test_settings_that_no_pool_could_meet_are_refused(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(AnyProtocol).validate_python(wrong)
