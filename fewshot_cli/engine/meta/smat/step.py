"""SMAT's training step: the loss of a task and its gradients, on a GPU as a CUDA graph of the task's bucket."""

from dataclasses import fields, replace

import torch
from torch.autograd import grad

from fewshot_cli.engine.device import Recorder, recorder
from fewshot_cli.engine.meta.settings import SMATSettings
from fewshot_cli.engine.meta.smat.loss import LOGITS, FeaturedTask, SMATLoss, smat_loss
from fewshot_cli.engine.meta.smat.router import Routing, logistic_noise
from fewshot_cli.engine.meta.smat.shape_buckets import bucket_of, padded
from fewshot_cli.engine.model.flat_params import FlatBackbone
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.train.cuda_graphs import KEPT, Captured

TEMPERATURE, SHARE, NOISE = "temperature", "share", "noise"
_TENSORS = tuple(field.name for field in fields(FeaturedTask) if field.name != "way")


class SMATStep:
    """Adds the gradients of tasks' losses to those of the bank's tensors that require one.

    `step(task, temperature, rng, share)` is `(share * smat_loss(...).total).backward()` and returns the loss, detached.
    With `write_state_` after it and an optimiser's step after a batch that is meta-tuning. Only reading its figures
    waits for the GPU.

    Where a recorder is, tasks are filled up to buckets, and the gradients live in buffers of the step's own: it may be
    that `values.grad` is set to None between steps, but the bank's tensors must stay the same ones.
    """

    def __init__(
        self,
        bank: Params,
        net: FlatBackbone,
        settings: SMATSettings,
        recorded_by: Recorder | None = None,
        keep: int = KEPT,
    ) -> None:
        self._bank, self._net, self._settings = bank, net, settings
        self._recorder = recorded_by or recorder(net.base.device)
        self._captured = Captured(self._add, _copied, self._recorder, net.base.device, keep)
        self._gradients = {
            name: torch.zeros_like(values) for name, values in bank.items() if self._recorder and values.requires_grad
        }

    def __call__(
        self, task: FeaturedTask, temperature: float, rng: torch.Generator | None = None, share: float = 1.0
    ) -> SMATLoss:
        if self._recorder is None:
            loss = smat_loss(self._bank, self._net, task, self._settings, temperature, rng)
            (share * loss.total).backward()  # type: ignore[no-untyped-call]
            return _copied(loss)
        self._own_gradients()
        filled, base = padded(task, bucket_of(task)), self._net.base
        inputs = {name: getattr(filled, name) for name in _TENSORS}
        inputs |= {TEMPERATURE: base.new_full((), temperature), SHARE: base.new_full((), share)}
        if rng is not None:
            noise = logistic_noise((self._settings.experts,), rng).to(base.dtype)
            inputs[NOISE] = noise.pin_memory() if base.device.type != "cpu" else noise
        return self._captured(inputs, way=filled.way)

    def _add(self, inputs: Params, way: int) -> SMATLoss:
        task = FeaturedTask(**{name: inputs[name] for name in _TENSORS}, way=way)
        # Leaves of this step alone, so that nothing of autograd's is shared with what ran on another stream.
        others = {name: buffer for name, buffer in self._gradients.items() if name != LOGITS}
        bank = {name: values.detach().requires_grad_(name in others) for name, values in self._bank.items()}
        into = self._gradients.get(LOGITS)  # by far the largest
        loss = smat_loss(bank, self._net, task, self._settings, inputs[TEMPERATURE], inputs.get(NOISE), into)
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
