"""Learning rates by epoch, against the published ones."""

import pytest
import torch

from fewshot_cli.engine.schedules import pmf_lr, smat_factor, smat_lr, warm_cosine_lr


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
