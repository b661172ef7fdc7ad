"""From which domain the next episode comes: uniformly, or by what the domains' gradients have done for the target.

FLAD (Albalak, Raffel and Wang, 2023, arXiv:2302.00674) treats the domains as the arms of a bandit. After each step of
the optimiser, a domain that was drawn is rewarded with the alignment of its gradient and the target's.

A sampler is settings and starts a state; a state is what has been seen, never changes, and is JSON, so that a run that
takes it up again goes on as if it had never stopped:

    state = sampler.start(domains)
    domain, state = state.choose(draws)          # once for each episode
    state = state.update({domain: reward})       # once for each step: every domain drawn since the last one
    state = resumed(state.model_dump_json())
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from fewshot_cli.engine.settings import Settings

if TYPE_CHECKING:  # recipes are checked without NumPy
    from fewshot_cli.engine.rng import Draws

Floats: TypeAlias = tuple[float, ...]
Reward: TypeAlias = Literal["cosine", "magnitude", "cosine and magnitude"]
"""How a domain's gradient is compared with the target's: see `rewards.alignment`."""


class Uniform(Settings):
    """Each domain as often as any other: nothing is learned, so `reward` is None and no gradient need be kept."""

    name: Literal["uniform"] = "uniform"
    reward: ClassVar[None] = None

    def start(self, domains: int) -> UniformState:
        return UniformState(domains=domains)


class UniformState(Settings):
    name: Literal["uniform"] = "uniform"
    sampler: Uniform = Uniform()
    domains: int = Field(ge=1)

    @property
    def probabilities(self) -> Floats:
        """How likely each domain is to come next, `(domains,)`."""
        return (1 / self.domains,) * self.domains

    def choose(self, draws: Draws) -> tuple[int, UniformState]:
        """The domain of the next episode, and the state after it was drawn."""
        return drawn(self.probabilities, draws), self

    def update(self, rewards: Mapping[int, float]) -> UniformState:
        """The same state, whatever the rewards."""
        return self


class Exp3(Settings):
    """EXP3-FLAD: domains are drawn at random, those with more reward more often, and none less often than at the rate
    of exploration, which falls with time. It supposes nothing about the rewards, which may well change.

    Differs from the release: it softmaxes the probabilities before it draws, which leaves them nearly uniform, and
    counts ten turns for each draw and one more. `softmax` and `turns` bring either back. Its exponentials overflow.
    """

    name: Literal["exp3"] = "exp3"
    reward: Reward = "cosine"
    turns: Literal["updates", "release"] = "updates"
    """What n counts in the exploration, sqrt(ln K / (K n)): `updates`, or 10 x draws + 1 as the `release` does."""
    softmax: bool = False
    """Whether domains are drawn from the softmax of the probabilities, as in the release."""

    def start(self, domains: int) -> Exp3State:
        return Exp3State(sampler=self, totals=(0.0,) * domains, sharpness=1 / domains, exploration=1 / domains)

    def exploration(self, domains: int, turn: int) -> float:
        """The rate of exploration ε in turn n of 1, 2, ...: min(1 / K, sqrt(ln K / (K n)))."""
        return min(1 / domains, math.sqrt(math.log(domains) / (domains * turn)))


class Exp3State(Settings):
    """What EXP3 has seen: `totals` R are the sums of each domain's rewards over how likely the domain was.

    `exploration` is ε of this turn, `sharpness` that of the one before.
    """

    name: Literal["exp3"] = "exp3"
    sampler: Exp3
    totals: Annotated[tuple[float, ...], Field(min_length=1)]
    sharpness: float
    exploration: float
    plays: int = 0
    updates: int = 0

    @property
    def policy(self) -> Floats:
        """π `(domains,)`: (1 - K ε_t) softmax(ε_{t-1} R) + ε_t."""
        exploited = 1 - len(self.totals) * self.exploration
        shares = softmax([self.sharpness * total for total in self.totals])
        return tuple(exploited * share + self.exploration for share in shares)

    @property
    def probabilities(self) -> Floats:
        """How likely each domain is to come next, `(domains,)`."""
        return softmax(self.policy) if self.sampler.softmax else self.policy

    def choose(self, draws: Draws) -> tuple[int, Exp3State]:
        """The domain of the next episode, and the state after it was drawn."""
        return drawn(self.probabilities, draws), self.model_copy(update={"plays": self.plays + 1})

    def update(self, rewards: Mapping[int, float]) -> Exp3State:
        """The state after a step: `rewards` of the domains drawn since the last one, one for each however often."""
        totals, policy = list(self.totals), self.policy
        for domain, reward in rewards.items():
            totals[domain] += reward / policy[domain]
        turn = self.updates + 1 if self.sampler.turns == "updates" else 10 * self.plays + 1
        return Exp3State(
            sampler=self.sampler,
            totals=tuple(totals),
            sharpness=self.exploration,
            exploration=self.sampler.exploration(len(totals), turn),
            plays=self.plays,
            updates=self.updates + 1,
        )


class Ucb1(Settings):
    """UCB1-FLAD: always the domain that may be best: the largest mean reward plus what its few draws leave unsure.

    Differs from the release: it softmaxes the choice, so that the best domain of eight is drawn with probability 0.28;
    `softmax` brings that back. There N also counts wrongly, by less than the episodes of a step, where a pass over the
    target has overwritten a variable.
    """

    name: Literal["ucb1"] = "ucb1"
    reward: Reward = "cosine"
    smoothing: float = Field(default=0.1, gt=0, le=1)
    """The share of a new reward in the mean: rewards of long ago are forgotten."""
    softmax: bool = False
    """Whether domains are drawn from the softmax of the choice, as in the release."""

    def start(self, domains: int, alignments: Sequence[float] | None = None) -> Ucb1State:
        """The state before the first episode; `alignments` are the domains' rewards where they were measured before.

        FLAD measures them. Without them each domain is drawn once before any is drawn twice.
        """
        if alignments is None:
            return Ucb1State(sampler=self, means=(None,) * domains, counts=(0,) * domains)
        if len(alignments) != domains:
            raise ValueError(f"{len(alignments)} alignments of {domains} domains")
        return Ucb1State(sampler=self, means=tuple(alignments), counts=(1,) * domains)


class Ucb1State(Settings):
    """What UCB1 has seen: `means` of each domain's rewards, None before the first, and how often it was drawn."""

    name: Literal["ucb1"] = "ucb1"
    sampler: Ucb1
    means: Annotated[tuple[float | None, ...], Field(min_length=1)]
    counts: tuple[int, ...]

    @property
    def indices(self) -> Floats:
        """The upper confidence bounds `(domains,)`."""
        return upper_bounds([mean or 0.0 for mean in self.means], self.counts, sum(self.counts))

    @property
    def probabilities(self) -> Floats:
        """How likely each domain is to come next, `(domains,)`: 1 for the best, the first of equals."""
        indices = self.indices
        first = indices.index(max(indices))
        best = tuple(float(i == first) for i in range(len(indices)))
        return softmax(best) if self.sampler.softmax else best

    def choose(self, draws: Draws) -> tuple[int, Ucb1State]:
        """The domain of the next episode, and the state after it was drawn."""
        domain = drawn(self.probabilities, draws)
        counts = tuple(count + (i == domain) for i, count in enumerate(self.counts))
        return domain, self.model_copy(update={"counts": counts})

    def update(self, rewards: Mapping[int, float]) -> Ucb1State:
        """The state after a step: `rewards` of the domains drawn since the last one, one for each however often."""
        means, share = list(self.means), self.sampler.smoothing
        for domain, reward in rewards.items():
            mean = means[domain]
            means[domain] = reward if mean is None else (1 - share) * mean + share * reward
        return Ucb1State(sampler=self.sampler, means=tuple(means), counts=self.counts)


AnySampler: TypeAlias = Annotated[Uniform | Exp3 | Ucb1, Field(discriminator="name")]
AnyState: TypeAlias = Annotated[UniformState | Exp3State | Ucb1State, Field(discriminator="name")]


def resumed(text: str) -> AnyState:
    """The state that `text` holds, its `model_dump_json()`."""
    adapter: TypeAdapter[UniformState | Exp3State | Ucb1State] = TypeAdapter(AnyState)
    return adapter.validate_json(text)


def upper_bounds(means: Sequence[float], counts: Sequence[int], rounds: int) -> Floats:
    """mean + sqrt(2 ln N / n) for each arm of a bandit, N being `rounds`; infinite for one that was never played."""
    width = 2 * math.log(max(rounds, 2))
    return tuple(
        mean + math.sqrt(width / count) if count else math.inf for mean, count in zip(means, counts, strict=True)
    )


def softmax(values: Sequence[float]) -> Floats:
    """e^v over the sum of all e^v, however large the values."""
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    total = math.fsum(powers)
    return tuple(power / total for power in powers)


def drawn(probabilities: Sequence[float], draws: Draws) -> int:
    """A number from 0 on, each with its probability."""
    (share,) = draws.uniform(1).tolist()
    for number, reached in enumerate(accumulate(probabilities)):
        if share < reached:
            return number
    return max(number for number, probability in enumerate(probabilities) if probability)  # they sum to just under 1
