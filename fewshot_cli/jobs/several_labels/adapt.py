"""From images with several labels each to a classifier of one mark and one threshold for each label."""

from dataclasses import replace
from pathlib import Path

from fewshot_cli.engine.adaptation import Adapted
from fewshot_cli.engine.trust.label_sets import macro_f1
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import Header
from fewshot_cli.images.sources.label_sets import label_sets, names_in, reading_of
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.classify.adapt import AdaptSettings, Learned, header_of, result_of
from fewshot_cli.jobs.classify.support_set import check_names, support_set
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.initialisation import Starts
from fewshot_cli.jobs.proofs.delta_file import write_proved
from fewshot_cli.jobs.proofs.rounding import rounded_with_thresholds
from fewshot_cli.jobs.run_record import Stopwatch, write_run
from fewshot_cli.jobs.several_labels.learned import LearnedMarks, learn_marks, marks_of
from fewshot_cli.jobs.several_labels.recipe_check import marking_method
from fewshot_cli.results import AdaptResult, ClassSize, OfLabel, SeveralLabels
from fewshot_cli.storage.atomic import check_writable


def adapt_to_label_sets(images: Path, output: Path, how: AdaptSettings, context: JobContext) -> AdaptResult:
    """Learns a classifier of several labels an image, writes it, and proves what it wrote.

    Raises FewshotError for bad input before anything slow is done, and CheckFailed where the file, read back, does not
    give the answers of what was learned.
    """
    watch = Stopwatch()
    check_writable(output)
    labelled = read_labelled(images, several=True)
    check_names(labelled)
    sets = label_sets(labelled, how.labels)
    if sets is None:
        raise FewshotError(f"The images of {images} have one label each.", "Leave --labels out.")
    method = marking_method(how.recipe, images)
    watch.lap("read")
    start = Starts(context.source, context.device).of(how.recipe)
    watch.lap("load")
    known = support_set(labelled, start.backbone, context, decode=False)
    watch.lap("read")
    names = names_in(sets)
    marks = marks_of(known.labels, sets, names).to(start.backbone.device)
    learned = learn_marks(method, known.support.features, marks)
    watch.lap("adapt")
    known = replace(known, support=replace(known.support, classes=names, way=len(names)))
    adapted = Adapted({}, learned.head)
    header = _header(header_of(start, adapted, Learned(adapted, ""), known, how), learned)
    thresholds = tuple(learned.thresholds.tolist())
    exact = how.values == "float32"
    model = rounded_with_thresholds(start.backbone, learned.head, thresholds, exact, known.support)
    written = write_proved(output, header, model, known.support, keep_support=False)
    watch.lap("prove")
    result = replace(
        result_of(start, adapted, known, header, written),
        per_class={name: ClassSize(int(n)) for name, n in zip(names, marks.sum(0).tolist(), strict=True)},
        left_out=dict(labelled.left_out),
        folder=str(labelled.root.absolute()),
        file=str(output),
        labels=reading_of(labelled, how.labels),
        several_labels=_by_label(learned, names),
        seconds=watch.rounded(),
        device=str(context.device),
    )
    write_run(output, result)
    return result


def _header(header: Header, learned: LearnedMarks) -> Header:
    provenance = header.provenance.model_copy(update={"expected_accuracy": learned.expected})
    return header.model_copy(update={"provenance": provenance})


def _by_label(learned: LearnedMarks, names: tuple[str, ...]) -> SeveralLabels:
    counts = learned.by_class
    found = zip(names, counts, learned.thresholds.tolist(), strict=True)
    per_class = {name: OfLabel(c.n, c.precision, c.recall, c.f1, round(t, 6)) for name, c, t in found}
    return SeveralLabels(macro_f1(counts), per_class)
