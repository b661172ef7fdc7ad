"""Prototypes next to easyfsl's: another implementation of the same thing gives the same answers."""

import numpy as np
import pytest
import torch

from fewshot_cli.engine.data.episode import Pool
from fewshot_cli.engine.data.episode_samplers import Fixed
from fewshot_cli.methods.many_tasks import logits_of_tasks
from fewshot_cli.methods.protonet import ProtoNet

easyfsl = pytest.importorskip("easyfsl.methods", reason="easyfsl is not installed")


@pytest.mark.parametrize("shots", [1, 5])
def test_answers_are_those_of_easyfsl_in_every_episode(shots):
    rng = torch.Generator().manual_seed(shots)
    labels = torch.arange(10).repeat_interleave(30)
    features = torch.randn(10, 48, generator=rng)[labels] + 2 * torch.randn(300, 48, generator=rng)
    pool = Pool("clusters", tuple("abcdefghij"), labels.numpy(), np.zeros(300, np.int64), ("clusters",))
    sessions = [Fixed(shots=shots).episode(pool, 0, number).sessions[0] for number in range(40)]
    support, marked, query = (
        torch.from_numpy(np.stack([getattr(session, part) for session in sessions]))
        for part in ("support", "support_labels", "query")
    )
    ours = logits_of_tasks(ProtoNet(distance="euclidean"), features, support, marked, query, 5).argmax(-1)
    theirs = easyfsl.PrototypicalNetworks(torch.nn.Identity())
    for task in range(40):
        theirs.process_support_set(features[support[task]], marked[task])
        assert torch.equal(theirs(features[query[task]]).argmax(1), ours[task])
    assert 0.3 < float((ours == torch.arange(5).repeat_interleave(15)).double().mean()) < 0.99
