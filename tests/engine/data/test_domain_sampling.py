"""Samplers of domains against the published updates (`flad`), and the laws that they keep."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fewshot_cli.engine.data.domain_sampling import (
    AnySampler,
    Exp3,
    Ucb1,
    Uniform,
    drawn,
    resumed,
    softmax,
    upper_bounds,
)
from fewshot_cli.engine.data.rewards import alignment, average, last_matrix
from fewshot_cli.engine.rng import Draws

SAMPLERS = [
    Uniform(),
    Exp3(),
    Exp3(turns="release"),
    Exp3(softmax=True),
    Ucb1(),
    Ucb1(smoothing=1.0),
    Ucb1(softmax=True),
]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)


@pytest.fixture(scope="module")
def published(golden):
    return golden("flad")


def close(actual, expected, rtol=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-6)


def chosen_often(state, times: int, seed: int = 0):
    """The domains of many episodes, none of which is rewarded, and the state after them."""
    domains = []
    for i in range(times):
        domain, state = state.choose(Draws(seed, "domains", i))
        domains.append(domain)
    return domains, state


def played(vectors, run: str):
    """Step by step: how many episodes it had, and the rewards of the domains that were drawn in it."""
    for counts, values in zip(vectors[f"{run}.played"].tolist(), vectors[f"{run}.reward"].tolist(), strict=True):
        yield sum(counts), {i: value for i, (n, value) in enumerate(zip(counts, values, strict=True)) if n}


@pytest.mark.parametrize("run", ["exp3_k8", "exp3_k35", "exp3_k2", "exp3_k8_neg"])
@pytest.mark.parametrize(("sampler", "kind"), [(Exp3(), "turns"), (Exp3(turns="release", softmax=True), "release")])
def test_exp3_is_the_published_one(published, run, sampler, kind):
    vectors, config = published
    state = sampler.start(config["runs"][run]["K"])
    close(state.policy, vectors[f"{run}.pi_{kind}"][0])
    for step, (episodes, rewards) in enumerate(played(vectors, run)):
        _, state = chosen_often(state, episodes)
        state = state.update(rewards)
        close(state.totals, vectors[f"{run}.R_{kind}"][step])
        close(state.exploration, vectors[f"{run}.eps_{kind}"][step + 1])
        close(state.policy, vectors[f"{run}.pi_{kind}"][step + 1])
        if kind == "release":
            assert 10 * state.plays + 1 == vectors[f"{run}.n_release"][step]
            close(state.probabilities, vectors[f"{run}.sampler_probs_release"][step])
        else:
            close(state.probabilities, state.policy)


def test_exp3_stays_uniform_for_the_first_turns_and_then_leaves_it():
    state = Exp3().start(8)
    for turn in range(1, 30):
        state = state.update({0: 1.0})
        uniform = turn <= 8 * math.log(8)
        assert np.allclose(state.probabilities, 1 / 8, rtol=1e-12) == uniform


def test_exp3_prefers_without_overflow():
    state = Exp3(turns="release").start(2)
    for _ in range(3):
        state = state.update({0: 1e4})
    np.testing.assert_allclose(state.policy, [1 - state.exploration, state.exploration])


@pytest.mark.parametrize("run", ["ucb1_k8", "ucb1_k35"])
def test_ucb1_is_the_published_one(published, run):
    vectors, config = published
    facts = config["runs"][run]
    initial = vectors[f"{run}.initial_alignment"].tolist()
    state = Ucb1(smoothing=facts["beta"]).start(facts["K"], initial)
    legacy = Ucb1(smoothing=facts["beta"], softmax=True)
    close(state.indices, vectors[f"{run}.index_before_first"])
    i = 0
    for episodes, rewards in played(vectors, run):
        for _ in range(episodes):
            as_released = state.model_copy(update={"sampler": legacy}).probabilities
            close(as_released, vectors[f"{run}.sampler_probs_release"][i])
            close(state.means, vectors[f"{run}.mean_reward"][i - 1] if i else initial)
            domain, state = state.choose(Draws(0, "domains", i))
            assert domain == vectors[f"{run}.choice"][i]
            assert list(state.counts) == vectors[f"{run}.counts"][i].tolist()
            assert sum(state.counts) == vectors[f"{run}.rounds"][i]
            if (i + 1) % episodes:
                close(state.indices, vectors[f"{run}.index"][i])
            i += 1
        state = state.update(rewards)
        close(state.indices, vectors[f"{run}.index"][i - 1])  # the last index of a step knows its rewards
    assert i == len(vectors[f"{run}.choice"])


def test_upper_bounds_are_the_released_ones_with_its_miscounted_rounds_too(published):
    vectors, _ = published
    run = "ucb1_k8_shadowed"
    rows = zip(*(vectors[f"{run}.{key}"].tolist() for key in ("mean_reward", "counts", "rounds", "index")), strict=True)
    for means, counts, rounds, index in rows:
        close(upper_bounds(means, counts, rounds), index)


def test_ucb1_draws_each_domain_once_before_any_twice_unless_it_was_told_alignments():
    domains, state = chosen_often(Ucb1().start(5), 5)
    assert domains == [0, 1, 2, 3, 4]
    assert state.update({3: 0.5}).means == (None, None, None, 0.5, None)
    assert chosen_often(Ucb1().start(3, [0.1, 0.9, 0.2]), 1)[0] == [1]
    with pytest.raises(ValueError, match="2 alignments of 3 domains"):
        Ucb1().start(3, [0.1, 0.9])


def test_rewards_are_the_published_ones(published):
    vectors, _ = published
    pairs = zip(vectors["reward.target_gradient"], vectors["reward.auxiliary_gradient"], strict=True)
    rewards = ("cosine", "magnitude", "cosine and magnitude")
    actual = [[alignment({"w": target}, {"w": gradient}, reward) for reward in rewards] for target, gradient in pairs]
    expected = [vectors[f"reward.{name}"] for name in ("cosine", "magnitude", "cosine_and_magnitude")]
    close(np.array(actual), torch.stack(expected, 1))


def test_gradients_of_several_episodes_are_averaged(published):
    vectors, _ = published
    mean = average([{"w": gradient} for gradient in vectors["accumulate.batches"]])
    close(mean["w"], vectors["accumulate.result"])


def test_alignment_is_over_all_parameters_by_name_whatever_their_order():
    one = {"a": torch.tensor([[3.0, 0.0]]), "b": torch.tensor([4.0])}
    other = {"b": torch.tensor([0.0]), "a": torch.tensor([[2.0, 0.0]])}
    assert alignment(one, other) == pytest.approx(0.6)
    zero = {name: torch.zeros_like(values) for name, values in one.items()}
    assert alignment(one, zero) == alignment(zero, zero, "magnitude") == 0
    assert alignment(one, {name: -values for name, values in one.items()}) == pytest.approx(-1)


def test_the_last_matrix_is_the_last_layers(vit, conv):
    assert last_matrix(vit.params).endswith("mlp.fc2.weight")
    assert last_matrix(conv.params) == "conv_head.weight"


@every_sampler
def test_a_sampler_is_found_by_its_name_in_a_recipe(sampler):
    assert TypeAdapter(AnySampler).validate_json(sampler.model_dump_json()) == sampler


episodes = st.integers(1, 5)
histories = st.lists(st.tuples(episodes, st.floats(-1, 1)), max_size=30)


@pytest.mark.slow
@every_sampler
@given(st.integers(1, 9), histories)
@settings(max_examples=25, deadline=None)
def test_probabilities_are_probabilities_and_resuming_changes_nothing(sampler, domains, history):
    state = sampler.start(domains)
    for step, (times, reward) in enumerate(history):
        chosen, state = chosen_often(state, times, seed=step)
        state = state.update(dict.fromkeys(chosen, reward))
        assert sum(state.probabilities) == pytest.approx(1)
        assert min(state.probabilities) >= 0
        assert len(state.probabilities) == domains
        if isinstance(sampler, Exp3):
            assert min(state.policy) >= state.exploration
            assert 0 <= state.exploration <= 1 / domains
    again = resumed(state.model_dump_json())
    assert again == state
    assert type(again) is type(state)
    assert chosen_often(again, 5)[0] == chosen_often(state, 5)[0]


@every_sampler
def test_choosing_and_learning_leave_the_state_as_it_was(sampler):
    state = sampler.start(4)
    before = state.model_dump_json()
    state.choose(Draws(0, "domains", 0))
    state.update({1: 0.5})
    assert state.model_dump_json() == before


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [Exp3(), Exp3(turns="release"), Ucb1()], ids=repr)
@given(st.integers(0, 4), st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_domain_with_steadily_more_reward_is_drawn_more(sampler, best, seed):
    state, times = sampler.start(5), 0
    for i in range(400):
        domain, state = state.choose(Draws(seed, "domains", i))
        times += domain == best
        state = state.update({domain: 0.8 if domain == best else 0.1})
    assert times > 400 / 5
    assert np.argmax(state.probabilities) == best


def test_a_domain_is_drawn_as_often_as_its_probability_says():
    probabilities = np.array([0.0, 0.2, 0.5, 0.0, 0.3])
    counts = np.bincount([drawn(probabilities, Draws(0, "d", i)) for i in range(4000)], minlength=5)
    errors = 4 * np.sqrt(probabilities * (1 - probabilities) * 4000)  # four standard errors; none where it is 0
    assert (abs(counts - 4000 * probabilities) <= errors).all()


def test_what_is_impossible_is_never_drawn():
    class Least(Draws):
        def uniform(self, n):
            return np.zeros(n)

    assert drawn((0.0, 1.0, 0.0), Least(0, "d", 0)) == 1


def test_softmax_keeps_finite():
    np.testing.assert_array_equal(softmax([1e5, 0.0, 1e5]), [0.5, 0.0, 0.5])


@pytest.mark.parametrize("sampler", [Exp3(), Ucb1()], ids=repr)
def test_a_reward_that_is_no_number_is_refused(sampler):
    with pytest.raises(ValidationError):
        sampler.start(3).update({1: math.nan})
