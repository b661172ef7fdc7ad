"""Learning rates by epoch, against the published ones."""

import pytest
import torch
from pydantic import ValidationError

from fewshot_cli.engine.meta.settings import Training
from fewshot_cli.engine.train.schedules import Schedule, pmf_lr, smat_factor, smat_lr, warm_cosine_lr


def test_pmf_runs_its_epochs_at_the_published_rates(golden):
    vectors, config = golden("pmf")
    facts = config["schedule"]
    rates = [pmf_lr(epoch, facts["lr"], facts["epochs"], facts["warmup_epochs"]) for epoch in range(facts["epochs"])]
    torch.testing.assert_close(torch.tensor(rates), vectors["meta.lr_per_epoch"], rtol=1e-6, atol=0)
    assert rates[0] == rates[1] == facts["warmup_lr"]
    assert max(rates) == rates[6] < facts["lr"]


def test_the_warm_cosine_ends_low_and_stays_there():
    assert warm_cosine_lr(100, 1e-3) == warm_cosine_lr(140, 1e-3) == pytest.approx(1e-6)
    assert warm_cosine_lr(0, 1e-3, warmup=0) == 1e-3


def test_smat_warms_up_and_comes_down_by_the_stated_factors():
    factors = {0: 0.0, 1: 0.2, 4: 0.8, 5: 1.0, 10: 0.970, 20: 0.75, 24: 0.621, 50: 0.0, 60: 0.0}
    assert {epoch: smat_factor(epoch) for epoch in factors} == pytest.approx(factors, abs=5e-4)


def test_smat_runs_its_first_epoch_at_a_rate_of_its_own():
    assert smat_lr(0, lr=1e6) == smat_lr(0, lr=1e-4) == 1e-6
    assert smat_lr(5, lr=1e6) == 1e6
    assert smat_lr(20, lr=1e-4) == pytest.approx(0.75e-4)


def test_a_cosine_rises_falls_and_ends_at_nothing():
    schedule = Schedule(name="cosine", warmup=1.0)
    rates = [schedule.lr(2.0, epoch / 10, 6) for epoch in range(60)]
    assert 0 < rates[0] < rates[5] < rates[9] < rates[10] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert schedule.lr(2.0, 3.5, 6) == pytest.approx(1.0)
    assert schedule.lr(2.0, 6.0, 6) == pytest.approx(0.0, abs=1e-12)
    assert Schedule(name="cosine", warmup=1.0, epochs=11).lr(2.0, 6.0, 6) == pytest.approx(1.0)


def test_a_constant_rate_only_rises():
    schedule = Schedule(name="constant", warmup=2.0)
    assert schedule.lr(3.0, 1.0, 10) == pytest.approx(1.5, rel=1e-2)
    assert schedule.lr(3.0, 2.0, 10) == schedule.lr(3.0, 9.9, 10) == 3.0
    assert Schedule(name="constant", warmup=0.0).lr(3.0, 0.0, 10) == 3.0


def test_the_published_schedules_change_with_the_epoch_only():
    smat, pmf = Schedule(name="smat", warmup=5, epochs=50), Schedule(name="pmf", warmup=5, epochs=100)
    for epoch in (1, 4, 10, 24):
        assert smat.lr(1e-4, epoch + 0.7, 25) == smat_lr(epoch, 1e-4)
        assert pmf.lr(5e-5, epoch + 0.7, 100) == pmf_lr(epoch, 5e-5)
    assert smat.lr(1e6, 0.9, 25) == 1e-6 and smat.lr(1e-4, 0.9, 25, first=0.0) == 0.0


def test_a_warm_up_that_takes_as_long_as_the_schedule_leaves_no_rate_after_it():
    for epochs in (4, 5):
        assert [smat_factor(epoch, epochs, warmup=5) for epoch in (4, 5, 6, 9)] == [0.8, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["smat", "pmf"])
@pytest.mark.parametrize("facts", [{"warmup": 5}, {"warmup": 6}, {"warmup": 3, "epochs": 3}])
def test_a_published_schedule_of_nothing_but_warm_up_is_refused(name, facts):
    with pytest.raises(ValidationError, match=f"takes all {facts.get('epochs', 5)} epochs of the schedule {name}"):
        Training(epochs=5, schedule=Schedule(name=name, **facts))
    assert Training(epochs=5, schedule=Schedule(name=name, warmup=4)).schedule.lr(1.0, 4.0, 5) > 0
    assert Training(epochs=5, schedule=Schedule(name="cosine", warmup=5))  # rises all the time


def test_a_published_schedule_knows_whole_epochs_only():
    with pytest.raises(ValidationError, match="whole number of epochs"):
        Schedule(name="smat", warmup=0.6)
