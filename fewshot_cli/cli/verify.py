"""`fewshot verify FILE`"""

from fewshot_cli.cli import early, options


@options.command
def verify(
    file: options.File,
    weights: options.Weights = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Check a delta file: hash, base weights, round trip.

    Exits with 0 if all hold, 3 if one does not.
    """
    early.check_device(device)
    early.check_weights(weights)
    early.check_delta_files([file], several_labels=True)
    options.start(json, offline)
    where = options.source(weights, offline)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.engine.device import choose_device
    from fewshot_cli.jobs.share.verify import verify as job
    from fewshot_cli.reports.layout import facts

    show(job(file, where, choose_device(device)), json, lambda result: facts(*result.checks.items()))
