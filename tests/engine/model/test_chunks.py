"""Fewer pictures at once where memory runs out, and a sentence where one is too many."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.chunks import GPU_TRAINED_PIXELS, ChunkLimit, frozen_chunk, trained_chunk
from fewshot_cli.engine.model.passes import Passes, features_in_chunks
from fewshot_cli.errors import FewshotError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@contextmanager
def memory_for(backbone: Backbone, pictures: int) -> Iterator[list[int]]:
    """A copy of the backbone that runs out of memory above so many pictures; yields what it was asked to see."""
    asked: list[int] = []

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        asked.append(len(inputs[0]))
        if len(inputs[0]) > pictures:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = backbone.module.register_forward_pre_hook(refuse)
    try:
        yield asked
    finally:
        hook.remove()


def own(backbone: Backbone) -> Backbone:
    """The backbone with limits of its own."""
    return replace(backbone, frozen_limit=ChunkLimit(), trained_limit=ChunkLimit())


def test_chunks_with_a_gradient_are_smaller_on_a_gpu_and_the_same_on_a_cpu():
    for size in ((224, 224), (64, 64)):
        assert trained_chunk(CPU, size) == frozen_chunk(CPU, size)
        assert trained_chunk(GPU, size) < frozen_chunk(GPU, size)
    assert trained_chunk(GPU, (224, 224)) == GPU_TRAINED_PIXELS // 224**2
    assert trained_chunk(GPU, (5000, 5000)) == 1


@pytest.mark.parametrize("pictures", [1, 3, 7])
def test_frozen_features_come_in_smaller_chunks_where_memory_is_short(vit, pictures):
    short = own(vit)
    images = torch.randint(256, (40, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = vit.frozen_features(images)
    with memory_for(short, pictures) as asked:
        torch.testing.assert_close(short.frozen_features(images), expected, rtol=1e-4, atol=1e-5)
        tried = len([n for n in asked if n > pictures])
        assert sum(n for n in asked if n <= pictures) == 40
        moved = short.moved({name: values + 0 for name, values in short.params.items()})
        moved.frozen_features(images)
        assert len([n for n in asked if n > pictures]) == tried  # what was found out is known, also to what it becomes
    assert short.chunk <= pictures < vit.chunk


def test_one_picture_that_is_too_much_is_an_error_that_says_what_to_set(vit):
    with memory_for(vit, 0), pytest.raises(FewshotError, match="one picture") as caught:
        own(vit).frozen_features(torch.zeros(3, 3, 64, 64, dtype=torch.uint8))
    assert "--image-size" in caught.value.hint and "--device cpu" in caught.value.hint


def test_a_limit_starts_from_what_was_tried():
    limit, tried = ChunkLimit(), []

    def work(chunk: int) -> int:
        tried.append(chunk)
        if chunk > 2:
            raise torch.OutOfMemoryError
        return chunk

    assert limit.tried(work, 24, CPU, "here") == 1
    assert tried == [24, 12, 6, 3, 1]
    assert limit.within(5) == 1 and limit.within(1) == 1


def test_features_in_chunks_have_the_gradient_of_those_at_once(vit):
    images = torch.randn(10, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    weights = {name: values.clone().requires_grad_() for name, values in vit.params.items()}
    found = []
    for chunk in (None, 3):
        seen = features_in_chunks(Passes(vit), images, weights, chunk)
        found.append((seen.detach(), torch.autograd.grad(seen.square().sum(), list(weights.values()))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
