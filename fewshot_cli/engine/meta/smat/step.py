"""SMAT's training step: the loss of a task and its gradients, on a GPU as a CUDA graph of the task's bucket."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor
from torch.autograd import grad

from fewshot_cli.engine.device import release_memory, sent
from fewshot_cli.engine.meta.fast_path import FastPath
from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.smat.fast_path import STEPS_WITHIN, check_near, reason
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.smat.gates import IN_CHUNKS, GatePasses
from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, SMATLoss, smat_loss
from fewshot_cli.engine.meta.smat.router import Routing, logistic_noise
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.meta.smat.shape_buckets import Bucket, bucket_of, padded
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.train.cuda_graphs import KEPT, Captured
from fewshot_cli.engine.train.optimiser import add_gradients

TEMPERATURE, SHARE, NOISE = "temperature", "share", "noise"
_TENSORS = tuple(field.name for field in fields(FeaturedTask) if field.name not in ("way", "texts"))


class SMATStep:
    """Adds the gradients of tasks' losses to those of the bank's tensors that require one.

    `step(task, temperature, rng, share)` is `(share * smat_loss(...).total).backward()` and returns the loss, detached.
    With `write_state_` after it and an optimiser's step after a batch that is meta-tuning. Only reading its figures
    waits for the GPU, and so do the first calls for each bucket.

    With a fast path, tasks are filled up to buckets, and the gradients live in buffers of the step's own: it may be
    that `values.grad` is set to None between steps, but the bank's tensors must stay the same ones. The first step of
    each bucket, and its first recording, are compared with the plain step, whose results are then the call's. Where
    they differ, or where the fast path fails, one sentence is told, and all goes on by plain steps.
    """

    def __init__(
        self,
        bank: Params,
        net: FlatBackbone,
        settings: SMATSettings,
        fast: FastPath[GatePasses] | None = None,
        keep: int = KEPT,
    ) -> None:
        self._bank, self._net, self._settings = bank, net, settings
        self._fast = _Fast(bank, net, settings, fast, keep) if fast else None

    def __call__(
        self, task: FeaturedTask, temperature: float, rng: torch.Generator | None = None, share: float = 1.0
    ) -> SMATLoss:
        noise = None
        if rng is not None:
            noise = logistic_noise((self._settings.experts,), rng).to(self._net.base.dtype)
        plain = partial(self._plain, task, temperature, noise, share)
        if self._fast is None:
            return plain()
        found = self._fast.step(task, temperature, noise, share, plain)
        if found is None:
            self._fast = None
            release_memory(self._net.base.device)
            found = plain()
        return found

    def _plain(self, task: FeaturedTask, temperature: float, noise: Tensor | None, share: float) -> SMATLoss:
        backbone = self._net.backbone

        def step(chunk: int) -> SMATLoss:
            net = self._net if chunk >= longest else replace(self._net, chunk=chunk)
            loss = smat_loss(self._bank, net, task, self._settings, temperature, noise, passes=IN_CHUNKS)
            add_gradients(share * loss.total, self._bank)
            return _copied(loss)

        longest = max(len(task.support_labels), len(task.query_labels))
        what = f"of a task through {backbone.name}, with a gradient"
        return backbone.trained_limit.tried(step, longest, backbone.device, what)


class _Fast:
    """The step as graphs, one for each bucket, and the buffers that they add gradients to."""

    def __init__(
        self, bank: Params, net: FlatBackbone, settings: SMATSettings, fast: FastPath[GatePasses], keep: int
    ) -> None:
        self._bank, self._net, self._settings, self._path = bank, net, settings, fast
        self._captured = Captured(self._add, _copied, fast.recorder, net.base.device, keep)
        self._gradients = {name: torch.zeros_like(values) for name, values in bank.items() if values.requires_grad}
        self._compared: set[tuple[Bucket, bool]] = set()

    def step(
        self,
        task: FeaturedTask,
        temperature: float,
        noise: Tensor | None,
        share: float,
        plain: Callable[[], SMATLoss],
    ) -> SMATLoss | None:
        """The loss of the task; None where the fast path is at fault: then nothing was added to any gradient."""
        self._own_gradients()
        bucket = bucket_of(task)
        before: Params | None = None
        try:
            filled, base = padded(task, bucket), self._net.base
            inputs = {name: getattr(filled, name) for name in _TENSORS}
            inputs |= {TEMPERATURE: base.new_full((), temperature), SHARE: base.new_full((), share)}
            if noise is not None:
                inputs[NOISE] = sent(noise, base.device)
            if self._captured.is_recorded(inputs, way=filled.way):
                return self._captured(inputs, way=filled.way)
            before = self._taken()
            found = self._captured(inputs, way=filled.way)
            stage = bucket, self._captured.is_recorded(inputs, way=filled.way)
            if stage not in self._compared:
                found = self._same(found, plain)
                self._compared.add(stage)
            self._put(before, add=True)
            return found
        except Exception as error:  # whatever a compiler, a driver or a kernel may have to say
            if before is None:
                raise
            self._put(before, add=False)
            size = f"{bucket.support} + {bucket.query} images"
            self._path.warn(f"Training goes on without the fast path, more slowly: on tasks of {size} {reason(error)}.")
            return None

    def _same(self, found: SMATLoss, plain: Callable[[], SMATLoss]) -> SMATLoss:
        """The plain step's loss and gradients in place of the fast one's, if those are near it; else raises Fault."""
        fast = self._figures(found)
        for buffer in self._gradients.values():
            buffer.zero_()
        expected = plain()
        figures = self._figures(expected)
        if all(values.isfinite() for values in figures.values()):  # else the run is at its end, by whichever path
            check_near("the step", fast, figures, STEPS_WITHIN[self._net.precision])
        return expected

    def _figures(self, loss: SMATLoss) -> Params:
        """The loss, and the norms of the gradients: of the delta, of the gates, and of all else together."""
        named = {DELTA: "the gradient of the delta", LOGITS: "the gradient of the gates"}
        norms = {named[name]: buffer.norm() for name, buffer in self._gradients.items() if name in named}
        others = [buffer.norm() for name, buffer in self._gradients.items() if name not in named]
        return {"the loss": loss.total, **norms, "the gradient of the router": torch.stack(others).norm()}

    def _taken(self) -> Params:
        """What the buffers hold, which are 0 afterwards."""
        before = {name: buffer.clone() for name, buffer in self._gradients.items()}
        for buffer in self._gradients.values():
            buffer.zero_()
        return before

    def _put(self, before: Params, add: bool) -> None:
        """Puts what the buffers held back, in place of what they hold now, or added to it."""
        for name, buffer in self._gradients.items():
            if add:
                buffer.add_(before[name])
            else:
                buffer.copy_(before[name])

    def _add(self, inputs: Params, way: int) -> SMATLoss:
        task = FeaturedTask(**{name: inputs[name] for name in _TENSORS}, way=way, texts=())
        # Leaves of this step alone, so that nothing of autograd's is shared with what ran on another stream.
        others = {name: buffer for name, buffer in self._gradients.items() if name != LOGITS}
        bank = {name: values.detach().requires_grad_(name in others) for name, values in self._bank.items()}
        loss = smat_loss(
            bank,
            self._net,
            task,
            self._settings,
            inputs[TEMPERATURE],
            inputs.get(NOISE),
            self._gradients.get(LOGITS),  # by far the largest
            self._path.kernels,
        )
        leaves = [bank[name] for name in others]
        for buffer, found in zip(others.values(), grad(loss.total, leaves, inputs[SHARE]), strict=True):
            buffer.add_(found)
        return _copied(loss)

    def _own_gradients(self) -> None:
        """Has the gradients of the bank's tensors be the buffers that recordings add to."""
        for name, buffer in self._gradients.items():
            values = self._bank[name]
            if values.grad is None:
                values.grad = buffer.zero_()
            elif values.grad is not buffer:
                values.grad = buffer.copy_(values.grad)


def _copied(loss: SMATLoss) -> SMATLoss:
    """The same figures in tensors of their own, without gradients."""

    def copies(values: Params) -> Params:
        return {name: value.detach().clone() for name, value in values.items()}

    return replace(
        loss,
        total=loss.total.detach().clone(),
        parts=copies(dict(loss.parts)),
        accuracy=loss.accuracy.clone(),
        sparsity=loss.sparsity.clone(),
        routing=Routing(**copies(vars(loss.routing))),
        state=copies(loss.state),
    )
