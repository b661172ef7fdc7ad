"""One method in a block of episodes: adapted to each support set, and measured on its queries."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Adapted, Chosen, Images, Run, Support
from fewshot_cli.engine.data.base_to_new import BaseToNew
from fewshot_cli.engine.data.episode import Episode, Pool, Session
from fewshot_cli.engine.data.episode_samplers import AnyProtocol, Incremental, all_alike, asks_all
from fewshot_cli.engine.delta.change import Delta, plus
from fewshot_cli.engine.head.sufficient_statistics import Moments
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.trust.metrics import (
    balanced_accuracy,
    calibration_errors,
    harmonic_mean,
    negative_log_likelihood,
)
from fewshot_cli.formats.delta.file import delta_bytes, head_bytes
from fewshot_cli.formats.delta.sections import graft_bytes
from fewshot_cli.methods.base import ClosedFormMethod, GrowingMethod, Learner
from fewshot_cli.methods.many_tasks import TASKS_AT_ONCE, logits_of_tasks
from fewshot_cli.storage.episode_journal import Results

METRICS = ("accuracy", "balanced_accuracy", "ece", "nll", "seconds", "bytes")


@dataclass(frozen=True)
class EpisodeSource:
    """What episodes are drawn from: a pool of pictures, the protocol that draws, and the backbone's features of both.

    `features` `(n, dim)` and `images` are what the backbone sees in the pool's pictures. `hash` names their contents.
    `delta` is how a bank has moved the backbone before any method does.
    """

    pool: Pool
    protocol: AnyProtocol
    rows: tuple[str, ...]
    """The name in tables of each session, and of what follows from several."""
    backbone: Backbone
    features: Tensor
    images: Images
    hash: str
    delta: Delta = field(default_factory=dict)
    left_out: tuple[dict[str, str], ...] = ()
    """The pictures that are not learned from since a copy is asked about, with the reason."""
    texts: tuple[tuple[str, ...], ...] = ()
    vectors: Tensor | None = None
    """The texts of each class of the pool for a text tower, and the mean directions `(classes, dim)` of that."""
    is_described: bool = False
    """Whether a names.csv beside the pictures says what classes are."""

    @cached_property
    def _delta_bytes(self) -> int:
        return delta_bytes(self.delta)

    def bytes(self, adapted: Adapted) -> int:
        """What a delta file takes for the answer, besides its header: its head and both deltas, in one."""
        delta = delta_bytes(plus(self.delta, adapted.delta)) if adapted.delta else self._delta_bytes
        return delta + head_bytes(adapted.head) + graft_bytes(adapted.graft)

    def episodes(self, seed: int, numbers: Sequence[int]) -> list[Episode]:
        return [self.protocol.episode(self.pool, seed, number) for number in numbers]


def block_size(method: Learner, source: EpisodeSource) -> int:
    """How many episodes to do before they are written down. Always as many, since the last bits depend on it."""
    one = asks_all(source.protocol) or all_alike(source.protocol, source.pool)
    return TASKS_AT_ONCE if method.head_only and not one else 1


def answer_block(method: Learner, source: EpisodeSource, seed: int, start: int) -> Results:
    """What the method achieves in the block of episodes that begins with number `start`, for each session."""
    numbers = range(start, start + block_size(method, source))
    episodes = source.episodes(seed, numbers)
    if method.closed_form and len(episodes) > 1 and _of_one_shape(episodes):
        return [_stacked(method.closed_form, source, [episode.sessions[0] for episode in episodes])]
    runs = [Run(_seed(seed, number)) for number in numbers]
    if isinstance(source.protocol, BaseToNew):
        answers = [_named(method, source, episode, run) for episode, run in zip(episodes, runs, strict=True)]
    elif isinstance(source.protocol, Incremental) and method.growing:
        answers = [_grown(method.growing, source, episode) for episode in episodes]
    else:
        answers = [_learned(method, source, episode, run) for episode, run in zip(episodes, runs, strict=True)]
    return [_columns(of_session) for of_session in zip(*answers, strict=True)]


def _stacked(method: ClosedFormMethod, source: EpisodeSource, sessions: Sequence[Session]) -> dict[str, list[float]]:
    """Many tasks of one shape at once; each takes its part of the time."""
    begin = time.perf_counter()
    device = source.features.device
    support, labels, query, answers = (
        torch.from_numpy(np.stack([getattr(session, part) for session in sessions])).to(device)
        for part in ("support", "support_labels", "query", "query_labels")
    )
    way = sessions[0].way
    logits = logits_of_tasks(method, source.features, support, labels, query, way)
    seconds = (time.perf_counter() - begin) / len(sessions)
    head = method.head(source.features[support[0]], labels[0], way)
    measured = _measured(logits, answers, way)
    constant = {"seconds": round(seconds, 6), "bytes": source.bytes(Adapted({}, head))}
    return {name: values.tolist() for name, values in measured.items()} | {
        name: [value] * len(sessions) for name, value in constant.items()
    }


def _learned(method: Learner, source: EpisodeSource, episode: Episode, run: Run) -> list[dict[str, float]]:
    """What the first session teaches, asked about each; all queries of a session are asked about at once."""
    begin = time.perf_counter()
    adapted = method.adapt(source.backbone, _support(source, episode, episode.sessions[0]), run)
    spent = time.perf_counter() - begin
    return [_asked(adapted, source, session, time.perf_counter() - spent) for session in episode.sessions]


def _named(method: Learner, source: EpisodeSource, episode: Episode, run: Run) -> list[dict[str, float]]:
    """The session of the classes that are learned, that of those that are only named, and both in harmonic mean."""
    begin = time.perf_counter()
    base, new = episode.sessions
    support, others = _support(source, episode, base), _support(source, episode, new)
    learned, named = method.adapt_and_name(source.backbone, support, others, run)
    first = _asked(learned, source, base, begin)
    second = _asked(named, source, new, time.perf_counter())
    return [first, second, _both(first, second)]


def _both(base: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
    """The figures of base and new classes as one: harmonic means of accuracies, the time of both, the learned bytes."""
    figures = {name: harmonic_mean(base[name], new[name]) for name in ("accuracy", "balanced_accuracy")}
    figures |= {name: (base[name] + new[name]) / 2 for name in ("ece", "nll")}
    rounded = {name: round(value, 6) for name, value in figures.items()}
    return rounded | {"seconds": round(base["seconds"] + new["seconds"], 6), "bytes": base["bytes"]}


def _support(source: EpisodeSource, episode: Episode, session: Session) -> Support:
    """What a session brings to learn from, with what a text tower is told of its classes."""
    classes = [int(c) for c in episode.classes_of(session)]
    device = source.features.device
    rows = torch.from_numpy(session.support)
    support = Support(
        Chosen(source.images, rows),
        torch.from_numpy(session.support_labels).to(device),
        source.features[rows.to(device)],
        session.way,
        tuple(source.pool.classes[c] for c in classes),
    )
    if source.vectors is None:
        return support
    return replace(support, texts=tuple(source.texts[c] for c in classes), vectors=source.vectors[classes])


def _asked(adapted: Adapted, source: EpisodeSource, session: Session, begin: float) -> dict[str, float]:
    """The figures of what was learned on the queries of a session."""
    model, device = Model(source.backbone, adapted), source.features.device
    query = torch.from_numpy(session.query)
    answers = torch.from_numpy(session.query_labels).to(device)
    asked = Support(Chosen(source.images, query), answers, source.features[query.to(device)], session.way)
    return _answered(adapted, model.logits_of(asked), source, session, begin)


def _grown(method: GrowingMethod, source: EpisodeSource, episode: Episode) -> list[dict[str, float]]:
    """Session by session; the images of earlier ones are never looked at again."""
    moments = Moments.none(source.features.shape[1])
    found = []
    for session in episode.sessions:
        begin = time.perf_counter()
        features = source.features[torch.from_numpy(session.support)].cpu()
        moments = moments.add(features, torch.from_numpy(session.support_labels), session.way)
        head = method.grown_head(moments).to(source.features.device)
        model = Model(source.backbone, Adapted({}, head))
        logits = model.answers(source.features[torch.from_numpy(session.query)])
        found.append(_answered(model.adapted, logits, source, session, begin))
    return found


def _answered(
    adapted: Adapted, logits: Tensor, source: EpisodeSource, session: Session, begin: float
) -> dict[str, float]:
    labels = torch.from_numpy(session.query_labels).to(logits.device)
    measured = _measured(logits[None], labels[None], session.way)
    seconds = time.perf_counter() - begin
    return {name: float(values) for name, values in measured.items()} | {
        "seconds": round(seconds, 6),
        "bytes": source.bytes(adapted),
    }


def _measured(logits: Tensor, labels: Tensor, way: int) -> Mapping[str, Tensor]:
    """By name, the figures `(tasks,)` of logits `(tasks, queries, way)` against labels `(tasks, queries)`."""
    answers = logits.argmax(-1)
    figures = {
        "accuracy": (answers == labels).double().mean(-1),
        "balanced_accuracy": balanced_accuracy(answers, labels, way),
        "ece": calibration_errors(logits.softmax(-1), labels),
        "nll": negative_log_likelihood(logits, labels),
    }
    return {name: (values.double() * 1e6).round() / 1e6 for name, values in figures.items()}


def _columns(episodes: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {metric: [episode[metric] for episode in episodes] for metric in METRICS}


def _of_one_shape(episodes: Sequence[Episode]) -> bool:
    shapes = {
        (len(session.support), len(session.query), session.way) for episode in episodes for session in episode.sessions
    }
    return len(shapes) == 1 and len(episodes[0].sessions) == 1


def _seed(seed: int, number: int) -> int:
    """The seed of a method's own random numbers in an episode."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")
