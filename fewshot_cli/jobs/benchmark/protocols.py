"""The protocols that options, or the record of a run, ask for, and whether data sets have what they draw.

Mistakes are told by the options that make them, before torch is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from fewshot_cli.engine.data.base_to_new import BaseToNew
from fewshot_cli.engine.data.episode_samplers import AnyProtocol, Incremental
from fewshot_cli.engine.mistakes import merged
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fewshot_cli.engine.data.episode import Pool
    from fewshot_cli.images.sources.dataset import Dataset
    from fewshot_cli.methods.base import Learner

OPTIONS = ("way", "shots", "queries", "base_way", "sessions")
"""The settings of protocols that have options of their own."""


def protocols(facts: dict[str, Any]) -> tuple[AnyProtocol, ...]:
    """The protocols that the facts describe: one for each number of shots. Raises FewshotError that lists mistakes."""
    shots = facts.get("shots")
    many = [facts | {"shots": number} for number in shots] if isinstance(shots, list) else [facts]
    try:
        return tuple(TypeAdapter(AnyProtocol).validate_python(each) for each in many)
    except ValidationError as error:
        mistakes = "\n".join(f"  {_mistake(item)}" for item in merged(error.errors()))
        raise FewshotError(
            f"The protocol {facts.get('name')} can't be so:\n{mistakes}",
            "`fewshot eval --help` lists the options; --set protocol.NAME=VALUE sets the others.",
        ) from None


def pool_of(dataset: Dataset, labels: npt.NDArray[np.int64], roles: npt.NDArray[np.int64] | None = None) -> Pool:
    """What episodes are drawn from: the data set's classes, and label and role `(n,)` of each of its images."""
    import numpy as np

    from fewshot_cli.engine.data.episode import Pool

    domains = np.zeros(len(labels), dtype=np.int64)
    groups = dataset.nodes, dataset.superclasses
    return Pool(dataset.name, dataset.classes, labels, domains, (dataset.name,), *groups, roles)


def check_data(datasets: Sequence[Dataset], protocols: Sequence[AnyProtocol], targets: Sequence[str] = ()) -> None:
    """Raises FewshotError where data sets don't fit the protocols, as far as their files' names tell, or a names.csv
    beside them is wrong."""
    import numpy as np

    from fewshot_cli.engine.data.episode import join, roles_of
    from fewshot_cli.images.sources.class_names import descriptions

    for dataset in datasets:
        descriptions(dataset.root, dataset.classes)
    pools = {
        dataset.name: pool_of(
            dataset,
            np.array([sample.label for sample in dataset.samples], dtype=np.int64),
            roles_of([sample.role for sample in dataset.samples]),
        )
        for dataset in datasets
    }
    for protocol in protocols:
        for plan in protocol.pools(list(pools), targets):
            protocol.check(join(plan.name, [pools[name] for name in plan.datasets], len(plan.query))[0])


def check_no_split(datasets: Sequence[Dataset]) -> None:
    """Raises FewshotError for a fixed split, where images are practised on."""
    for dataset in datasets:
        if any(sample.role for sample in dataset.samples):
            raise FewshotError(
                f"{dataset.name} is a fixed split, whose test images take no part in practice.",
                "Give --split train to practise on the images that are learned from.",
            )


def check_learner(name: str, learner: Learner, protocol: AnyProtocol) -> None:
    """Raises FewshotError where what the recipe `name` learns can't answer as the protocol asks."""
    if isinstance(protocol, Incremental) and learner.growing is None:
        raise FewshotError(
            f"The recipe {name} can't add classes to what it has learned, as --protocol incremental asks.",
            "Heads that can: protonet, protonet-euclidean, ridge, lda; from a bank only where it is dense.",
        )
    if isinstance(protocol, BaseToNew) and learner.text_scale is None:
        raise FewshotError(
            f"The recipe {name} can't answer classes of which it has only the names, as --protocol base-to-new asks.",
            "Recipes that can: zero-shot, coop, coprompt, clip-adapter, prolip, 2sfs, clip-lora, saft-clip, "
            "finetune-clip, and others with --set method.tuning.head=text or --set head.name=zero-shot.",
        )


@contextmanager
def told_by_settings() -> Iterator[None]:
    """An error about a protocol names the recipe's settings: `meta-tune` has no options for its protocol."""
    try:
        yield
    except FewshotError as error:
        said = [_by_settings(sentence) for sentence in (error.problem, error.hint)]
        raise FewshotError(*said) from None


def _by_settings(sentence: str) -> str:
    options = re.sub(r"--(way|shots|queries|sessions) (\w+)", r"--set training.protocol.\1=\2", sentence)
    return options.replace("--set protocol.", "--set training.protocol.")


def _mistake(item: Mapping[str, Any]) -> str:
    """A mistake in a protocol, with the option that sets what is wrong."""
    _, *path = item["loc"] or (None,)
    if item["type"] == "union_tag_invalid":
        return f"--protocol: there is none of that name; there are {item['ctx']['expected_tags']}"
    if not path:
        return str(item["msg"]).removeprefix("Value error, ")
    first, *rest = map(str, path)
    option = f"--{first.replace('_', '-')}" if first in OPTIONS else f"--set protocol.{first}"
    called = ".".join([option, *rest])
    if item["type"] == "extra_forbidden":
        return f"{called}: this protocol has no such setting"
    return f"{called}: {item['msg'].removeprefix('Value error, ')} (given: {item['input']!r})"
