"""Blocks of episodes: which are known from earlier runs, which are to be done, and what a record keeps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_cli.engine.data.episode_samplers import all_alike
from fewshot_cli.engine.distributed import Processes
from fewshot_cli.jobs.benchmark.episode_runner import METRICS, EpisodeSource, answer_block, block_size
from fewshot_cli.jobs.initialisation import Start
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.storage.episode_journal import Journal, Known, Results, blocks_of, episodes_in, longest, read_run


@dataclass(frozen=True)
class Job:
    """One recipe on the episodes of one source, so many of them; `key` names everything that decides what it finds.

    The key has two parts with a dot between: what is asked, and the circumstances under which it is answered.
    """

    name: str
    start: Start
    source: EpisodeSource
    key: str
    seed: int
    episodes_asked: int

    @property
    def episodes(self) -> int:
        """How many episodes; one where all hold the same images, of which more would say no more."""
        return 1 if all_alike(self.source.protocol, self.source.pool) else self.episodes_asked

    @property
    def size(self) -> int:
        return block_size(self.start.learner, self.source)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """The number of the first episode of each block, and how many of it are wanted."""
        for start in range(0, self.episodes, self.size):
            yield start, min(self.size, self.episodes - start)


def known_blocks(output: Path, processes: Processes) -> Known:
    """What earlier runs left at the output and beside it, as far as this machine or another one sees it."""
    known: Known = {}
    if processes.is_first and output.is_file() and output.stat().st_size:
        known = blocks_of(read_run(output))
    _join(known, Journal(output).read())
    merged: Known = {}
    for found in processes.gather(known):
        _join(merged, found)
    return merged


def worked(
    jobs: Sequence[Job], known: Known, journal: Journal | None, progress: Progress, processes: Processes
) -> Known:
    """All blocks, also those not known yet; this process does its share of these and hears of the others'."""
    mine: Known = {}
    for name in dict.fromkeys(job.name for job in jobs):
        units = [
            (job, start)
            for job in jobs
            if job.name == name
            for start, wanted in job.blocks()
            if not _holds(known.get(job.key, {}).get(start), wanted)
        ]
        share = units[processes.rank :: processes.world]
        with progress.track(f"{name}: episodes") as advance:
            for done, (job, start) in enumerate(share):
                results = answer_block(job.start.learner, job.source, job.seed, start)
                mine.setdefault(job.key, {})[start] = results
                if journal:
                    journal.write(job.key, start, results)
                advance(done + 1, len(share))
    everything: Known = {key: dict(blocks) for key, blocks in known.items()}
    for found in processes.gather(mine):
        _join(everything, found)
    return everything


def episode_results(job: Job, found: Known) -> Results:
    """The episodes that were asked for, block after block, for each session."""
    blocks = [found[job.key][start] for start, _ in job.blocks()]
    return [
        {metric: [v for block in blocks for v in block[i][metric]][: job.episodes] for metric in METRICS}
        for i in range(len(blocks[0]))
    ]


def other_blocks(jobs: Sequence[Job], found: Known, former: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the record keeps of `found` beside what the jobs tell, by key: of whom it is, and its blocks.

    It holds the episodes of recipes, data sets and protocols that are not asked for now, and those beyond the number
    asked for. What the jobs ask for, answered under other circumstances, is what they replace: it is left out.
    `former` is the record that was there, which says whose its keys are.
    """
    wanted = {job.key: dict(job.blocks()) for job in jobs}
    replaced = {key.partition(".")[0] for key in wanted}
    whose = _owners(former or {}) | {job.key: f"{job.name} on {', '.join(job.source.rows)}" for job in jobs}
    left: dict[str, Any] = {}
    for key, blocks in found.items():
        if key not in wanted and key.partition(".")[0] in replaced:
            continue
        more = {
            str(start): results
            for start, results in sorted(blocks.items())
            if episodes_in(results) > wanted.get(key, {}).get(start, 0)
        }
        if more:
            left[key] = {"of": whose.get(key), "blocks": more}
    return left


def _owners(run: Mapping[str, Any]) -> dict[str, str]:
    """Whose the keys of a record are."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for name, keys in run.get("keys", {}).items():
        for row, key in keys.items():
            rows.setdefault(key, (name, []))[1].append(row)
    earlier = {key: str(item["of"]) for key, item in run.get("kept", {}).items() if item.get("of")}
    return earlier | {key: f"{name} on {', '.join(of)}" for key, (name, of) in rows.items()}


def _holds(block: Results | None, wanted: int) -> bool:
    return block is not None and episodes_in(block) >= wanted and set(METRICS) <= set(block[0])


def _join(known: Known, found: Mapping[str, Mapping[Any, Results]]) -> None:
    for key, blocks in found.items():
        for start, results in blocks.items():
            longest(known, key, int(start), results)
