"""Our AutoPGD and Square against their authors' code, on the frozen network of a run: robust accuracy by both.

Usage: compare_autoattack.py REFERENCE RUN [--norm linf --eps 0.1 --images 500 --steps 100 --targets 9 --queries 1000]

REFERENCE is a checkout of github.com/fra31/auto-attack, of which `autoattack/autopgd_base.py` and
`autoattack/square.py` are run as they are; RUN is a run's directory. Both attack the same float32 network, with the
same budgets, and what both return is judged in float64 by `lipcert.attacks.judge`. Every attack gets all images that
are classified rightly; "together" counts an image as robust if all attacks of one side fail.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.attacks.auto_projected_gradient import AutoProjectedGradient
from lipcert.attacks.judge import judge
from lipcert.attacks.square import Square
from lipcert.contracts import Norm
from lipcert.evaluation.load import load_run

NAMES = {Norm.LINF: "Linf", Norm.L2: "L2", Norm.L1: "L1"}  # what the authors call norms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference")
    parser.add_argument("run")
    parser.add_argument("--data-dir")
    parser.add_argument("--norm", type=Norm, default=Norm.LINF)
    parser.add_argument("--eps", type=float, default=0.1)
    for key, value in {"images": 500, "steps": 100, "targets": 9, "queries": 1000, "batch": 250, "seed": 0}.items():
        parser.add_argument(f"--{key}", type=int, default=value)
    options = parser.parse_args()

    run = load_run(options.run, data_dir=options.data_dir)
    test = run.dataset.test.head(options.images)
    x, y = test.pixels().double() / 255, test.labels.long()
    exact, network = run.network, run.network.to(dtype=torch.float32)
    right = (exact(x).argmax(1) == y).nonzero()[:, 0]
    print(f"{options.run}, {options.norm} {options.eps}: {len(right)} of {len(x)} images are classified rightly")

    robust: dict[str, Tensor] = {}
    for name, attack in attacks(options, network).items():
        start, success = time.perf_counter(), []
        for rows in right.split(options.batch):
            found = attack(x[rows].float(), y[rows])
            success.append(judge(exact, x[rows], y[rows], found.double(), options.norm, options.eps).success)
        held = robust[name] = ~torch.cat(success)
        print(f"{name:24} {int(held.sum()) / len(x):7.2%}  {time.perf_counter() - start:7.1f} s", flush=True)
    for side in ("ours", "theirs"):
        held = torch.stack([value for name, value in robust.items() if name.startswith(side)]).all(0)
        print(f"{side + ', together':24} {int(held.sum()) / len(x):7.2%}")


def attacks(options: argparse.Namespace, network: Callable[[Tensor], Tensor]) -> dict[str, Callable[..., Tensor]]:
    """What is compared, as functions of images and labels."""
    sys.path.insert(0, options.reference)
    from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from autoattack.square import SquareAttack

    eps, seed, steps, targets = options.eps, options.seed, options.steps, options.targets
    shared = {"norm": options.norm, "eps": [eps], "seed": seed, "batch_size": options.batch}
    ours = {
        "ours, apgd ce": AutoProjectedGradient(loss="ce", steps=steps, **shared),
        "ours, apgd dlr targeted": AutoProjectedGradient(loss="dlr", steps=steps, targets=targets, **shared),
        "ours, square": Square(steps=options.queries, **shared),
    }
    theirs = {"norm": NAMES[options.norm], "eps": eps, "seed": seed, "device": "cpu"}
    large = {"use_largereps": options.norm == Norm.L1}  # as AutoAttack does in l1
    found: dict[str, Callable[..., Tensor]] = {
        name: lambda x, y, attack=attack: attack(network, x, y) for name, attack in ours.items()
    }
    found["theirs, apgd ce"] = APGDAttack(network, n_iter=steps, loss="ce", **large, **theirs).perturb
    found["theirs, apgd dlr targeted"] = APGDAttack_targeted(
        network, n_iter=steps, n_target_classes=targets, **large, **theirs
    ).perturb
    found["theirs, square"] = SquareAttack(network, n_queries=options.queries, **theirs).perturb
    return found


if __name__ == "__main__":
    main()
