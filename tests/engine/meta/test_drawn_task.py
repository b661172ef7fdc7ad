"""A task reaches a GPU in one copy that nobody waits for, and the next one is drawn meanwhile."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_cli.engine.data.crops import draw_views
from fewshot_cli.engine.meta import drawn_task as module
from fewshot_cli.engine.meta.drawn_task import DrawnTask, Prefetched, packed, unpacked
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.rng import Draws

GPU = torch.device("cuda")


def drawn(views: bool) -> DrawnTask:
    pictures = torch.randint(256, (7, 3, 64, 64), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1])
    varied = draw_views(Draws(0, "views", 0), 7) if views else None
    return DrawnTask(pictures, torch.tensor([3, 1, 4, 0, 5, 9, 2]), labels, 3, 3, varied)


@pytest.mark.parametrize("views", [False, True])
def test_tensors_come_out_of_a_buffer_as_they_went_in(views):
    task = drawn(views)
    tensors = {"pictures": task.pictures[:, :, :5, :7], "rows": task.rows, "labels": task.labels}
    tensors |= vars(task.views) if views else {}
    buffer = packed(tensors, lambda size: torch.empty(size, dtype=torch.uint8))
    found = unpacked(buffer, tensors)
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        assert found[name].dtype == values.dtype and torch.equal(found[name], values)
        assert found[name].untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
        assert found[name].data_ptr() % 16 == buffer.data_ptr() % 16


class Waits(TorchDispatchMode):
    """Notes every copy between devices, and whatever else has Python wait for a GPU."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "lift_fresh", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[bool] = []
        self.others: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        found = func(*args, **kwargs)
        if name == "_to_copy" and args[0].device.type != found.device.type:
            self.copies.append(kwargs.get("non_blocking", False))
        elif name == "copy_" and args[0].device.type != args[1].device.type:
            self.copies.append(kwargs.get("non_blocking", len(args) > 2 and args[2]))
        elif name in self.WAITING:
            self.others.append(name)
        elif name.startswith("index") and any(
            each is not None and each.device.type == "cpu" and args[0].device.type != "cpu"
            for each in (args[1] if isinstance(args[1], list | tuple) else ())
        ):
            self.copies.append(False)
        return found


@pytest.mark.parametrize("views", [False, True])
def test_a_task_is_on_a_gpu_after_one_copy_that_nobody_waits_for(vit, views, monkeypatch):
    """Fake tensors stand for a GPU."""
    monkeypatch.setattr(module, "pinned", lambda size: torch.empty(size, dtype=torch.uint8))
    monkeypatch.setattr(Backbone, "device", GPU)
    with FakeTensorMode(allow_non_fake_inputs=True):
        backbone, task = replace(vit), drawn(views)
        features = torch.empty(10, vit.dim, device=GPU)
        backbone.normalised(torch.zeros(1, 3, 64, 64, device=GPU))  # the scale is sent once
        with Waits() as waits:
            found = task.on(backbone, features)
        assert waits.copies == [True] and waits.others == []
        for values in (found.support_images, found.query_labels, found.query_features, found.support_labels):
            assert values.device.type == "cuda"
        assert found.support_images.shape == (3, 3, 64, 64) and found.query_features.shape == (4, vit.dim)
        with Waits() as waits:  # what is looked for would be found
            torch.zeros(2).to(GPU)
            torch.ones(4, device=GPU)[torch.tensor([1, 2])]
        assert waits.copies[0] is False and len(waits.copies) == 2


def test_what_is_next_is_made_by_a_thread_while_this_is_in_use():
    made: list[tuple[int, bool]] = []
    main = threading.current_thread()

    def make(key: int) -> int:
        made.append((key, threading.current_thread() is main))
        if key == 3:
            raise ValueError("three")
        return 10 * key

    ahead: Prefetched[int, int] = Prefetched(make, with_thread=True)
    assert [ahead.take(1, 2), ahead.take(2, 5), ahead.take(4, 3)] == [10, 20, 40]  # 5 was likely, and did not come
    with pytest.raises(ValueError, match="three"):  # where it is asked for, not where it was made
        ahead.take(3, None)
    assert sorted(made) == [(1, True), (2, False), (3, False), (4, True), (5, False)]
    made.clear()
    alone: Prefetched[int, int] = Prefetched(make, with_thread=False)
    assert [alone.take(1, 2), alone.take(2, None)] == [10, 20]
    assert made == [(1, True), (2, True)]
