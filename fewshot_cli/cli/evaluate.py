"""`fewshot eval FILE FOLDER`"""

import sys

from fewshot_cli.cli import options


@options.command
def evaluate(
    file: options.File,
    folder: options.Folder,
    weights: options.Weights = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a delta file on labelled images.

    Reports accuracy with its 95 % interval, each class, what is taken for what, and calibration.
    """
    progress = options.start(quiet, offline)
    where = options.source(weights, offline)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.engine.devices import choose_device
    from fewshot_cli.errors import FewshotError
    from fewshot_cli.jobs.evaluate import evaluate as job
    from fewshot_cli.jobs.record import write_run
    from fewshot_cli.reports.evaluation import evaluated

    report = job(file, folder, where, choose_device(device), options.feature_cache(no_cache), progress)
    show(report, json, evaluated)
    try:
        write_run(file.with_name(f"{file.name}.eval"), report)
    except FewshotError as error:  # a delta file in a folder of others is no reason to fail
        print(f"This run leaves no record: {error.problem}", file=sys.stderr)
