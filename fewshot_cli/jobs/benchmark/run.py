"""Methods compared over many episodes: the same tasks for each, answered, measured and written down."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fewshot_cli.engine.adaptation import JoinedImages
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.data.domain_pairs import PoolPlan
from fewshot_cli.engine.data.episode import Pool, join
from fewshot_cli.engine.data.episode_samplers import AnyProtocol, Incremental, query_groups
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.formats.kinds import DELTA as DELTA_FILE
from fewshot_cli.images.sources.class_names import joined_descriptions
from fewshot_cli.images.sources.dataset import Dataset
from fewshot_cli.jobs.benchmark.blocks import Job, known_blocks, other_blocks, worked
from fewshot_cli.jobs.benchmark.episode_runner import EpisodeSource
from fewshot_cli.jobs.benchmark.episode_splits import check_splits, write_splits
from fewshot_cli.jobs.benchmark.protocols import check_data, check_learner, pool_of
from fewshot_cli.jobs.benchmark.report import compared
from fewshot_cli.jobs.claim import claimed
from fewshot_cli.jobs.context import JobContext, circumstances
from fewshot_cli.jobs.copies import apart
from fewshot_cli.jobs.data import Data, load_data
from fewshot_cli.jobs.features import model_key
from fewshot_cli.jobs.initialisation import Start, Starts
from fewshot_cli.jobs.recipes import check_reads_names
from fewshot_cli.jobs.run_record import seconds_since
from fewshot_cli.recipes import Recipe
from fewshot_cli.results import ComparisonResult
from fewshot_cli.storage.atomic import check_writable, write_atomically
from fewshot_cli.storage.episode_journal import Journal, check_record, read_run


@dataclass(frozen=True)
class ComparisonSettings:
    """The data sets, the protocols, the number of episodes and the seed of a comparison.

    Several `protocols` differ in their shots only. `targets` are the names of the data sets that queries come from,
    where the protocol goes from one to another; else every data set is.
    """

    datasets: tuple[Dataset, ...]
    protocols: tuple[AnyProtocol, ...]
    episodes: int
    seed: int
    targets: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Where the data sets were read from, as the user named it, and `split`, which of their classes: for the record."""
    split: str | None = None


def compare(
    recipes: Mapping[str, Recipe],
    question: ComparisonSettings,
    context: JobContext,
    output: Path | None,
    splits: Path | None = None,
) -> tuple[ComparisonResult, Path]:
    """Every recipe on the same episodes: each one's result, means with 95 % intervals and paired differences; the file.

    Episodes that the output holds already, or that an interrupted run left beside it, are not repeated; those that are
    not asked for now stay in the file. Without `output` it is named after what is asked. Each of several processes does
    its share, and all give the same result. Into the folder `splits`, if one is given, the episodes go as fixed splits.
    Raises FewshotError for data that the protocol does not fit, before anything slow is done, and where another command
    is writing the output.
    """
    begin = time.perf_counter()
    _check(recipes, question, splits)
    with ExitStack() as stack:
        if output is not None:
            stack.enter_context(claimed(output, context.processes, _check_output))
        jobs, data = _jobs(recipes, question, context)
        _write_splits(splits, jobs, data, context)
        if output is None:
            output = Path(f"eval-{digest([job.key for job in jobs])[:8]}.run.json")
            stack.enter_context(claimed(output, context.processes, _check_output))
        journal = Journal(output, context.processes.rank)
        found = worked(jobs, known_blocks(output, context.processes), journal, context.progress, context.processes)
        result = replace(compared(jobs, data, question, found, context), seconds=seconds_since(begin))
        if context.processes.is_first:
            former = read_run(output) if output.is_file() and output.stat().st_size else None
            record = result.report() | {"kept": other_blocks(jobs, found, former)}
            write_atomically(output, json.dumps(record, ensure_ascii=False) + "\n")
            journal.remove()
    return result, output


def answered_again(
    recipes: Mapping[str, Recipe], question: ComparisonSettings, context: JobContext, splits: Path | None = None
) -> ComparisonResult:
    """What `compare` finds, with nothing taken from earlier runs and nothing written but `splits`."""
    _check(recipes, question, splits)
    jobs, data = _jobs(recipes, question, context)
    _write_splits(splits, jobs, data, context)
    return compared(jobs, data, question, worked(jobs, {}, None, context.progress, context.processes), context)


# --- before the first episode --------------------------------------------------------------------------------------


def _check(recipes: Mapping[str, Recipe], question: ComparisonSettings, splits: Path | None) -> None:
    """Raises FewshotError for what can be seen before a backbone is read. Of banks more is seen when they are."""
    check_data(question.datasets, question.protocols, question.targets)
    if splits is not None:
        check_splits(splits, question.datasets, question.protocols)
    for name, recipe in recipes.items():
        check_reads_names(recipe)
        if recipe.bank is None:
            for protocol in question.protocols:
                check_learner(name, recipe.learner, protocol)


def _write_splits(splits: Path | None, jobs: Sequence[Job], data: Mapping[str, Data], context: JobContext) -> None:
    if splits is not None and context.processes.is_first:
        write_splits(splits, jobs, data)


def _check_output(output: Path) -> None:
    check_writable(output)
    check_record(output)


def _jobs(
    recipes: Mapping[str, Recipe], question: ComparisonSettings, context: JobContext
) -> tuple[list[Job], dict[str, Data]]:
    """Each recipe on the episodes of each source, and the data sets as the last backbone sees them."""
    starts = Starts(context.source, context.device)
    begun = {name: starts.of(recipe) for name, recipe in recipes.items()}
    for name, start in begun.items():
        for protocol in question.protocols:
            check_learner(name, start.learner, protocol)
    pictures = any(start.learner.head_only is None for start in begun.values())
    circumstances = _circumstances(context)
    sources: dict[str, list[EpisodeSource]] = {}
    data: dict[str, Data] = {}
    jobs = []
    for name, start in begun.items():
        which = f"{model_key(start.backbone, '')} {start.recipe.template}"
        if which not in sources:
            data = {
                dataset.name: load_data(dataset, start.backbone, context.cache, pictures, context.progress)
                for dataset in question.datasets
            }
            sources[which] = list(_sources(question, data, start))
        for source in sources[which]:
            key = _key(start, source, question.seed, circumstances)
            jobs.append(Job(name, start, source, key, question.seed, question.episodes))
    return jobs, data


def _sources(question: ComparisonSettings, data: Mapping[str, Data], start: Start) -> Iterator[EpisodeSource]:
    for protocol in question.protocols:
        for plan in protocol.pools(list(data), question.targets):
            parts, left_out = apart([data[name] for name in plan.datasets], plan.query)
            pools = [pool_of(part.dataset, part.labels, part.roles) for part in parts]
            pool, _ = join(plan.name, pools, len(plan.query))
            protocol.check(pool)  # again: some pictures may be unreadable
            features = torch.cat([part.features for part in parts])
            images = JoinedImages(tuple(part.images for part in parts))
            rows = _row_names(plan, protocol, question, pool)
            contents = digest([part.hash for part in parts])
            seen = pool, protocol, rows, start.backbone, features, images, contents
            yield _told(EpisodeSource(*seen, start.delta, tuple(left_out)), start, [part.dataset for part in parts])


@torch.no_grad()
def _told(source: EpisodeSource, start: Start, datasets: Sequence[Dataset]) -> EpisodeSource:
    """The source with texts of its classes, where the backbone reads texts; of two data sets the first counts."""
    if not isinstance(start.backbone, TwoTowers):
        return source
    known = joined_descriptions(datasets)
    texts = class_texts(source.pool.classes, start.recipe.template, known)
    return replace(source, texts=texts, vectors=start.backbone.class_vectors(texts), is_described=bool(known))


def _row_names(plan: PoolPlan, protocol: AnyProtocol, question: ComparisonSettings, pool: Pool) -> tuple[str, ...]:
    name = plan.name
    if len(question.protocols) > 1:
        name += f", {protocol.shots} shot{'s' * (protocol.shots != 1)}"  # type: ignore[union-attr]
    if groups := query_groups(protocol, pool):
        return tuple(f"{name}{group.before}{group.name}" for group in groups)
    sessions = protocol.sessions + 1 if isinstance(protocol, Incremental) else 1
    return tuple(f"{name}, session {number}" for number in range(sessions)) if sessions > 1 else (name,)


def _key(start: Start, source: EpisodeSource, seed: int, circumstances: str) -> str:
    """Names everything that decides what an episode gives: what is asked, and after a dot, how it is answered."""
    asked = [
        start.recipe.model_dump(exclude={"bank", "density"}),
        source.backbone.fingerprint,
        asdict(source.backbone.preprocessing),
        source.protocol.model_dump(),
        source.pool.name,
        source.hash,
        seed,
    ]
    if source.is_described:
        asked.append(source.texts)
    if (classes := list(source.pool.classes)) != sorted(classes):  # the order of a fixed split
        asked.append(classes)
    if start.bank is not None:  # whatever its file is called
        asked += [start.bank, start.recipe.density]
    return f"{digest(asked)}.{circumstances}"


def _circumstances(context: JobContext) -> str:
    """A digest of what may move the last bits of a result: our code, others' versions, the device and its threads."""
    return digest([*circumstances(context).values(), DELTA_FILE.version])[:16]


def digest(facts: Any) -> str:
    """The SHA-256 of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
