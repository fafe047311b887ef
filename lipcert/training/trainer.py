"""Lightning's Trainer as a run needs it: checkpoints that the manifest knows, one progress bar, one process a rank."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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


class TrainingProgress(L.Callback):
    """One bar over all steps."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Several ranks' stderr is kept for their errors. Where nobody looks on, a bar is noise.
        console = Console(stderr=trainer.world_size == 1)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (trainer.is_global_zero and console.is_terminal),
        )
        total = int((trainer.max_epochs or 0) * trainer.num_training_batches)
        self.task = self.bar.add_task("train", total=total, completed=trainer.global_step)
        self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.bar.update(self.task, completed=trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()


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
    callbacks: list[L.Callback] = [checkpoint, TrainingProgress()]
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
    trainer: L.Trainer, module: Training, train: Iterable, val: Iterable | None, run: RunDirectory, state: Any
) -> None:
    """Trains, from `state` on where there is one (see `restoring`)."""
    io: Any = trainer.strategy.checkpoint_io
    io.state = state
    try:
        trainer.fit(module, train, val, ckpt_path=run / CHECKPOINT if state else None, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
