"""Lightning's Trainer as a run needs it: checkpoints that the manifest knows, one progress bar, one process a rank."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lipcert.progress import EVERY, Progress
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import CHECKPOINT
from lipcert.training.module import Training


class RegisteredCheckpointIO(TorchCheckpointIO):
    """Writes the checkpoint of a run: whole, in one step, and known to the manifest.

    A killed run leaves the old checkpoint or the new one. OSError says why one can't be written (a disk that is full).
    What a training goes on from is handed over, checked, as `state`: Lightning reads no file.
    """

    def __init__(self, run: RunDirectory):
        self.run = run
        self.state: dict[str, Any] | None = None  # what is read in the place of the file

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        assert self.state is not None, "the state to go on from is read before"
        return self.state

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        name = Path(path).resolve().relative_to(self.run.path.resolve()).as_posix()
        with self.run.replacing(name) as file:
            target: Any = file
            try:
                torch.save(checkpoint, target)
            except RuntimeError:
                if file.error:  # torch hides what its file said
                    raise file.error from None
                raise


class ShownSteps(L.Callback):
    """Moves the progress of a training; where a single epoch is long, tells in lines how far it is."""

    def __init__(self, shown: Progress):
        self.shown = shown

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.started = time.monotonic()
        self.shown.move(trainer.global_step, f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.shown.move(trainer.global_step)
        if time.monotonic() - self.started >= EVERY:
            self.shown.tell(f"step {batch_idx + 1}/{trainer.num_training_batches}")


def make_trainer(
    run: RunDirectory,
    *,
    epochs: int,
    accelerator: str,
    devices: int,
    num_nodes: int,
    precision: Any,
    early_stopping: int | None,
) -> L.Trainer:
    """A Lightning Trainer that writes the checkpoints of a run and goes on from them. Several ranks are torchrun's."""
    checkpoint = ModelCheckpoint(
        (run / CHECKPOINT).parent,
        filename=Path(CHECKPOINT).stem,
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    callbacks: list[L.Callback] = [checkpoint]
    if early_stopping:
        callbacks.append(EarlyStopping("val/cross_entropy", patience=early_stopping, check_on_train_epoch_end=True))
    single = devices * num_nodes == 1
    # Alone, whatever a cluster's environment says; several ranks are torchrun's, which Lightning recognises.
    plugins: Any = [RegisteredCheckpointIO(run), *([LightningEnvironment()] if single else [])]
    return L.Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,
        strategy="auto" if single else "ddp",
        callbacks=callbacks,
        plugins=plugins,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=run.path,
    )


def fit(
    trainer: L.Trainer,
    module: Training,
    train: Iterable,
    val: Iterable | None,
    run: RunDirectory,
    state: Any,
    shown: Progress,
) -> None:
    """Trains, from `state` on where there is one (see `restoring`), with its progress shown."""
    io: Any = trainer.strategy.checkpoint_io
    io.state = state
    callbacks: Any = trainer
    callbacks.callbacks.append(ShownSteps(shown))
    try:
        with shown:
            trainer.fit(module, train, val, ckpt_path=run / CHECKPOINT if state else None, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
