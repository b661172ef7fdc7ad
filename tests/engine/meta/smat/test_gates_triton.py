"""The kernels for a GPU next to the chunks that a CPU works in: on a GPU, and in Triton's interpreter without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

HERE = Path(__file__)
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def compare(device: str) -> None:
    """Both passes for several sizes, numbers of experts and β."""
    from fewshot_cli.engine.meta.smat import gates as experts
    from fewshot_cli.engine.meta.smat import gates_triton as fused

    plain = experts.InChunks()
    rng = torch.Generator().manual_seed(0)
    for size, number, beta in ((1, 1, 1.0), (1024, 3, 2 / 3), (2500, 8, 2 / 3), (2500, 8, 1.0)):
        base, delta, slope = torch.randn(3, size, generator=rng)
        logits = 6 * torch.randn(number, size, generator=rng)
        experts.clamp_logits_(logits)
        weights, shares = torch.rand(2, number, generator=rng)
        there = [values.to(device) for values in (base, delta, logits, weights)]
        found, expected = fused.forward(*there, beta), plain.forward(base, delta, logits, weights, beta)
        assert torch.equal(found[2].cpu(), expected[2])  # gates that are not 0
        torch.testing.assert_close([values.cpu() for values in found], list(expected), rtol=1e-5, atol=1e-5)
        zero = fused.forward(there[0], torch.zeros_like(there[1]), *there[2:], beta)[0]
        assert torch.equal(zero.cpu(), base)

        # Slopes as autograd may give them: one value in the place of many.
        for of_merged in (slope, slope[:1].expand(size)):
            there = [values.to(device) for values in (delta, logits, weights, of_merged, shares)]
            of_logits, expected_of_logits = torch.ones_like(there[1]), torch.ones_like(logits)
            for add in (False, True):
                found = [*fused.backward(*there, beta, of_logits, add), of_logits]
                expected = plain.backward(delta, logits, weights, of_merged, shares, beta, expected_of_logits, add)
                expected = [*expected, expected_of_logits]
                torch.testing.assert_close([values.cpu() for values in found], expected, rtol=1e-5, atol=1e-4)
            unlearned = fused.backward(*there, beta, None, False)
            torch.testing.assert_close(unlearned, tuple(found[:2]), rtol=0, atol=0)


@pytest.mark.slow
def test_the_kernels_are_the_chunks_in_the_interpreter():
    script = f"import runpy; runpy.run_path({str(HERE)!r})['compare']('cpu')"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


@no_gpu
def test_the_kernels_are_the_chunks_on_a_gpu():
    compare("cuda")
