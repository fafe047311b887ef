"""`lipcert attack`: attacks the test images of a trained network, and holds every success against its certificates."""

from __future__ import annotations

from pathlib import Path

from lipcert.evaluation.attack import attack_run
from lipcert.evaluation.load import load_run
from lipcert.evaluation.record import show, write_record
from lipcert.runs.layout import CERTIFICATES
from lipcert.training.devices import check_device


def run(
    *,
    run: str,
    attack: dict | None,
    eps: list[float | str] | str | None,
    save_images: bool,
    data_dir: str | None,
    device: str,
    trust: bool,
    seed: int,
    output_dir: str | None,
) -> None:
    """The command: adds the rows of one attack to the run of directory `run`, and rewrites its record.

    Rows that are there already are kept: stopped and started again, it goes on.
    """
    check_device(device)
    if not attack or "_target_" not in attack:
        raise ValueError("`attack=none` attacks nothing; name an attack, for instance attack=carlini_wagner_l2")
    if eps is not None and "eps" not in attack:
        raise ValueError(
            f"`eps`: this attack looks for the smallest distance and takes no radius, got {eps}; leave it out"
        )
    if eps is not None and not eps:
        raise ValueError("`eps`: is empty, list at least one radius")
    loaded = load_run(Path(run), data_dir=data_dir, trust=trust)
    if eps is not None:
        attack = attack | {"eps": eps}
    elif attack.get("eps", 0) is None:  # conf/attack.yaml's `eps: null`: the run's own radii
        attack = attack | {"eps": loaded.config["eps"]}
    if not loaded.directory.has(CERTIFICATES):
        raise ValueError(f"`run`: {run} is not certified yet; run `lipcert certify run={run}` first")
    with loaded.directory.writing("attack"):
        attack_run(loaded, attack, device=device, save_images=save_images)
        write_record(loaded.directory)
    show(loaded.directory)
