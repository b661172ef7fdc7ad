"""From the names of classes alone to a classifier in a small file: zero-shot, without an image."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.train.text import with_texts
from fewshot_cli.images.sources.class_names import checked_names
from fewshot_cli.jobs.classify.adapt import AdaptSettings, Learned, header_of, result_of
from fewshot_cli.jobs.classify.support_set import SupportSet
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.initialisation import Starts
from fewshot_cli.jobs.proofs.delta_file import write_proved
from fewshot_cli.jobs.proofs.pictures import drawn_pictures
from fewshot_cli.jobs.proofs.rounding import rounded
from fewshot_cli.jobs.recipes import check_learns_from_none
from fewshot_cli.jobs.run_record import Stopwatch, data_hash, write_run
from fewshot_cli.results import AdaptResult
from fewshot_cli.storage.atomic import check_writable

NO_IMAGE = "no image was learned from, so that none could be left out"


def adapt_to_names(names: Sequence[str], output: Path, how: AdaptSettings, context: JobContext) -> AdaptResult:
    """Writes the classifier that tells classes of these names apart, and proves on drawn pictures what it wrote.

    Raises FewshotError for names that are no classes, and for a recipe that learns from images.
    """
    watch = Stopwatch()
    check_writable(output)
    check_learns_from_none(how.recipe)
    classes = checked_names(names)
    start = Starts(context.source, context.device).of(how.recipe)
    watch.lap("load")
    support = with_texts(start.backbone, _drawn(start.backbone, classes), class_texts(classes, how.recipe.template))
    learned = Learned(start.learner.adapt(start.backbone, support, Run(how.seed)), NO_IMAGE)
    adapted = learned.adapted.after(start.delta)
    watch.lap("adapt")
    known = SupportSet(support, (), (), (), ())
    header = header_of(start, adapted, learned, known, how)
    unseen = header.provenance.model_copy(update={"images": 0, "data": data_hash(())})
    header = header.model_copy(update={"provenance": unseen})
    live = Model(start.backbone, learned.adapted).logits_of(support)
    model = rounded(start.base, adapted, live, how.values, support)
    written = write_proved(output, header, model, support, keep_support=False)
    watch.lap("prove")
    result = replace(
        result_of(start, adapted, known, header, written),
        file=str(output),
        seconds=watch.rounded(),
        device=str(context.device),
    )
    write_run(output, result)
    return result


def _drawn(backbone: Backbone, classes: tuple[str, ...]) -> Support:
    """Drawn pictures to prove the file on; nothing is learned from them, and they are of no class."""
    pictures = drawn_pictures(backbone.preprocessing, each=1)
    labels = torch.zeros(len(pictures), dtype=torch.long, device=backbone.device)
    return Support(pictures, labels, backbone.frozen_features(pictures), len(classes), classes)
