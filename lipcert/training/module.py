"""The one LightningModule: it is handed its parts and knows none of their names."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lipcert.training.preparation import trainable

CHECK_EVERY = 100  # steps between looks at the loss on a GPU, each of which waits for it
WAY_OUT = "(the last good checkpoint is kept): try a smaller `optimizer.lr`"


class TrainingDiverged(ValueError):
    """The loss is no longer finite."""


class Training(L.LightningModule):
    """Trains `model` by `loss`; applies `schedule` before every step, and is the only one to write what it drives.

    Every epoch's randomness is a function of (seed, epoch), so that a resumed run repeats what a whole one does.
    `on_epoch`, set before training, receives the epoch's numbers, on rank 0: means over the images of all ranks.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Any,
        seed: int,
    ):
        super().__init__()
        self.model, self.loss, self.schedule = model, loss, schedule
        self.make_optimizer, self.seed = optimizer, seed
        self.on_epoch: Callable[[dict[str, float]], None]
        self.sums: dict[str, Tensor] = {}
        self.best: dict[str, Any] | None = None  # what `runs.checkpoint.best_of` reads
        self.retracting: list[Any] = [layer for layer in model.modules() if hasattr(layer, "retract")]
        self.projecting: list[Any] = [layer for layer in model.modules() if hasattr(layer, "project")]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(trainable(self.model, self.loss))

    def apply_schedule(self, epoch: float) -> None:
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        self.schedule.apply(epoch, model=self.model, loss=self.loss, groups=groups)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed((self.seed * 1_000_003 + self.current_epoch + 7919 * self.global_rank) % 2**63)
        batches: Any = self.trainer.train_dataloader
        batches.epoch = self.current_epoch
        self.started = time.perf_counter()
        self.sums = {}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.apply_schedule(self.current_epoch + batch_idx / self.trainer.num_training_batches)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        terms = self.loss(self.model, *batch)
        self._add("train", {name: value.detach() for name, value in terms.items()}, len(batch[1]))
        if self.device.type == "cpu" or batch_idx % CHECK_EVERY == 0:
            self._check_finite(terms["loss"].detach())
        return terms["loss"]

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if getattr(optimizer, "retract", False):
            for layer in self.retracting:
                layer.retract()
        for layer in self.projecting:
            layer.project()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self.model(x).float()
        own = logits.gather(1, y[:, None])[:, 0]
        margin = own - logits.scatter(1, y[:, None], -torch.inf).amax(1)
        numbers = {
            "accuracy": (margin > 0).float().mean(),
            "gap": margin.clamp_min(0).mean(),
            "cross_entropy": nn.functional.cross_entropy(logits, y),
        }
        self._add("val", numbers, len(y))

    def on_train_epoch_end(self) -> None:
        numbers = self._means("train") | self._means("val")
        self._check_finite(torch.tensor(numbers["train/loss"]))
        if not all(p.isfinite().all() for p in self.parameters()):  # by the last step, whose loss was still finite
            raise TrainingDiverged(f"the weights are no longer finite after step {self.global_step} {WAY_OUT}")
        if "val/cross_entropy" in numbers:
            self.log("val/cross_entropy", numbers["val/cross_entropy"], rank_zero_only=True)  # for early stopping
            if self.schedule.keep == "best":
                self._keep(numbers["val/cross_entropy"])
        values = self.schedule.values(self.current_epoch + 1)
        numbers |= {f"schedule/{name}": value for name, value in values.items()}
        numbers["seconds"] = time.perf_counter() - self.started
        if self.trainer.is_global_zero:
            self.on_epoch({"epoch": self.current_epoch + 1, "step": self.global_step, **numbers})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epochs_done"] = self.current_epoch + 1
        if self.best is not None:
            checkpoint["best"] = self.best

    def _keep(self, loss: float) -> None:
        """Keeps the classifier's weights if the validation loss, which all ranks know, is the smallest so far."""
        if loss < (self.best["loss"] if self.best else torch.inf):
            weights = {f"model.{name}": value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = {
                "epoch": self.current_epoch + 1,
                "epochs": self.schedule.epochs,
                "loss": loss,
                "state_dict": weights,
            }

    def _add(self, stage: str, numbers: dict[str, Tensor], count: int) -> None:
        for name, value in {**numbers, "count": torch.ones((), device=self.device)}.items():
            key = f"{stage}/{name}"
            self.sums[key] = self.sums.get(key, torch.zeros((), device=self.device)) + value * count

    def _means(self, stage: str) -> dict[str, float]:
        keys = sorted(key for key in self.sums if key.startswith(f"{stage}/"))
        if not keys:
            return {}
        totals = self.trainer.strategy.reduce(torch.stack([self.sums[key] for key in keys]), reduce_op="sum")
        sums = dict(zip(keys, totals.tolist(), strict=True))
        count = sums.pop(f"{stage}/count")
        return {key: value / count for key, value in sums.items()}

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingDiverged(f"the loss is {float(loss)} at step {self.global_step} {WAY_OUT}")
