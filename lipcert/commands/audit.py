"""`lipcert audit`: tries to break every proof of a run, and says how large an error would have been noticed."""

from __future__ import annotations

from pathlib import Path

from lipcert.analyses.audit import analysis, counterexample, fixed_eps, tables
from lipcert.analyses.audit import self_test as forging
from lipcert.analyses.audit.settings import Settings
from lipcert.contracts import Norm
from lipcert.errors import CertificateBroken
from lipcert.evaluation.load import LoadedRun, load_run
from lipcert.reporting.terminal import console
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import AUDIT_EPS, AUDIT_EPS_FACTS, AUDIT_FACTS, AUDIT_SELF_TEST
from lipcert.training.devices import check_device

LARGEST = 1e30  # an eps that float32 can hold, with its square root to spare


def run(
    *,
    run: str | None,
    images: int | None,
    factors: list[float],
    norm: str | None,
    eps: float | None,
    self_test: bool,
    check: str | None,
    again: bool,
    steps: int,
    restarts: int,
    batch_size: int,
    data_dir: str | None,
    device: str,
    trust: bool,
    seed: int,
    output_dir: str | None,
) -> None:
    """The command: audits the proofs of the run of directory `run`, and adds what it found to its record.

    Stopped and started again, it goes on. `norm` and `eps` attack at one radius, of which nothing is proved; `check`
    is a counter-example that is judged again.
    """
    if check is not None:
        recheck(Path(check), Path(run) if run else None)
        return
    if run is None:
        raise ValueError("`run` must be given: lipcert audit run=PATH, with the directory of a trained run")
    check_device(device)
    settings = Settings(images, tuple(factors), steps, restarts, batch_size, seed, device)
    settings.check()
    if norm is not None and norm not in list(Norm):
        raise ValueError(f"`norm`: got {norm!r}, choose one of {', '.join(Norm)}")
    if (norm is None) != (eps is None):
        raise ValueError(f"`norm` and `eps` go together, as in norm=linf eps=0.3; got norm={norm} eps={eps}")
    if eps is not None and not 0 < eps < LARGEST:
        raise ValueError(f"`eps` must be positive and below {LARGEST:g}, got {eps}")
    if eps is not None and self_test:
        raise ValueError("`self_test=true` forges certificates: leave out norm and eps")
    loaded = load_run(Path(run), data_dir=data_dir, trust=trust)
    with loaded.directory.writing("audit"):
        if self_test:
            test_oneself(loaded, settings)
        elif norm is not None and eps is not None:
            fixed_eps.attack(loaded, Norm(norm), float(eps), settings, again)
            show_fixed(loaded.directory, f"{norm} {float(eps)!r}")
        else:
            analysis.audit(loaded, settings, again)
            show(loaded.directory)


def show(directory: RunDirectory) -> None:
    """What audit.json says, on the terminal."""
    facts, terminal = directory.read_json(AUDIT_FACTS), console()
    terminal.print(tables.attack_table(facts["attacks"]), tables.audit_table(facts))
    say(*tables.in_words(facts), f"audit: {directory / analysis.FIGURE}.png, .csv, .json")


def show_fixed(directory: RunDirectory, key: str) -> None:
    """What audit_eps.json says of one eps, on the terminal."""
    facts, terminal = directory.read_json(AUDIT_EPS_FACTS)[key], console()
    terminal.print(tables.attack_table(facts["attacks"]), tables.fixed_table(facts))
    say(*facts["findings"], f"audit: {directory / AUDIT_EPS}")


def test_oneself(loaded: LoadedRun, settings: Settings) -> None:
    """The self-test, and what it says on the terminal."""
    content = forging.test(loaded, settings)
    console().print(forging.table(content))
    say(forging.in_words(content), f"self-test: {loaded.directory / AUDIT_SELF_TEST}")


def recheck(file: Path, run: Path | None) -> None:
    """Judges a saved counter-example again; CertificateBroken where it is one."""
    found, verdict, disagreement = counterexample.check(file, run)
    say(
        f"test image {found.index}, label {found.label}; predicted {verdict.clean} by the frozen network",
        *(f"the other image is predicted {label} in {name}" for name, label in verdict.predictions.items()),
        f"{found.norm} distance {verdict.distance!r}, computed exactly and rounded up; {found.claim} {found.radius!r}",
        *([disagreement] if disagreement else []),
    )
    if verdict.broken:
        raise CertificateBroken(f"image {found.index}: {file} is confirmed: another label within the {found.claim}")
    say("not confirmed: this breaks no certificate")


def say(*lines: str) -> None:
    """Lines on the terminal, as they are."""
    for line in lines:
        console().print(line, soft_wrap=True, highlight=False, markup=False)
