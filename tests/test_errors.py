"""What a user can get wrong is told in one line on stderr, with the way out, exit status 2, and touches nothing."""

import os
from pathlib import Path

import pytest
import torch
from commandline import TINY, lipcert, refused

from lipcert.cli.messages import message
from lipcert.errors import CertificateBroken
from lipcert.training.module import Training


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# What is written on the command line: (overrides, what the line must say).
WRITTEN = [
    (
        "model=l2nn",
        "`model=l2nn`: there is no such option; did you mean `l2nnn`? (choices: allcnn, convnet, ibp_convnet, l2nnn, ",
    ),
    ("dataset=mnst", "did you mean `mnist`? (choices: cifar10, cifar100, digits"),
    ("experiment=l2nnn/table1_model33", "`experiment=l2nnn/table1_model33`: there is no such option; did you mean"),
    ("attack=null", "`attack=null`: a group needs one of its options; did you mean `none`? (choices: "),
    ("sed=1", "`sed` is not a key of `lipcert train`; did you mean `seed`?"),
    ("modle=l2nnn", "`modle` is not a key of `lipcert train`; did you mean `model`?"),
    ("schedule.epoch=1", "`schedule.epoch`: schedule=l2nnn has no such key; did you mean `schedule.epochs`?"),
    ("loss=l2nnn +loss.omgea=1", "`loss.omgea` is not a key of L2NNNLoss; did you mean `omega`?"),
    ("+dataset.vall_size=1", "`dataset.vall_size` is not a key of digits; did you mean `dataset.val_size`?"),
    ("+optimizer.rl=1", "`optimizer.rl` is not a key of "),
    ("+trainer.device=1", "`trainer.device` is not a key of conf/trainer; did you mean `trainer.devices`?"),
    ("~schedule.lr.drives", "`schedule.lr.drives` must be given: Cosine needs it"),
    ("seed=abc", "`seed` must be int, got 'abc'"),
    ("seed=1.5", "`seed` must be int, got 1.5"),
    ("seed=1,2", "`seed=1,2` has several values: add -m"),
    ("seed=[1", "`seed=[1` can't be read"),
    ("seed=???", "`seed` must be given"),
    ("data_dir=${nowhere}", "`data_dir` has no value: Interpolation key 'nowhere' not found"),
    ("mnist", "`mnist` is not of the form key=value"),
    ("--config-dri=x", "`--config-dri=x` is not a flag; did you mean `--config-dir`?"),
    ("--cfg jobs", "`--cfg/-c`: invalid choice: 'jobs' (choose from "),
    ("--config-dir", "`--config-dir/-cd`: expected one argument"),
    ("--config-dir nowhere", "nowhere' not found"),
    ("optimizer=adam optimizer.lr=abc", "`optimizer.lr` must be float, got 'abc'"),
    ("optimizer=adam optimizer.betas=[0.9]", "`optimizer.betas` must be tuple"),
    ("schedule.epochs=ten", "`schedule.epochs` must be int, got 'ten'"),
    ("+schedule.foo=1", "`schedule.foo` must be a node with a `_target_` or null, got 1"),
    ("model=convnet model.channels=5", "`model.channels` must be a list of int, got 5"),
    ("model._target_=lipcert.models.Nope", "`model._target_`: lipcert.models.Nope can't be imported"),
    ("~model._target_", "`model._target_` must be given"),
    ("+seed=1", "An item is already at 'seed'"),
    ("~foo", "'foo' does not exist"),
    ("loss=cross_entropy loss.adversary=pgd", "`loss.adversary` must be a node with a `_target_` or null, got 'pgd'"),
    ("dataset.val_size=abc", "`dataset.val_size` must be float, got 'abc'"),
    ("eps=[0.1,-1]", "`eps` must be radii from 0, got [0.1, -1]"),
    ("eps=-1", "`eps` must be a list of float, got -1"),
    ("attack=pgd_l2 attack.eps=[-1]", "`attack.eps`"),
    ("model=convnet model.channels=[8,8,8,8,8]", "does not survive"),
    ("optimizer=adam optimizer.lr=-1", "`optimizer`: torch.optim.Adam refuses this (Invalid learning rate: -1)"),
    ("schedule.lr.drives=optimizer.foo", "`schedule.lr` drives optimizer.foo, which this optimizer does not have"),
    ("schedule.lr.drives=model.foo", "`schedule.lr` drives model.foo, which this model does not have"),
    ("schedule.epochs=-1", "`schedule.epochs` must be at least 0, got -1"),
    ("schedule.early_stopping=3 dataset.val_size=0", "`schedule.early_stopping` needs a validation set"),
    ("trainer.devices=1000", "`trainer.devices`=1000 is more than this machine has"),
    ("trainer.devices=0", "must be at least 1, got 0"),
    ("trainer.accelerator=tpu", "`trainer.accelerator` must be one of auto, cpu, gpu, got 'tpu'"),
    ("trainer.precision=16", "`trainer.precision` must be one of 32-true, 64-true, 16-mixed, bf16-mixed, got 16"),
    ("trainer.num_nodes=2", "`trainer.num_nodes`=2 needs the environment variables MASTER_ADDR"),
    ("trainer.accelerator=cpu trainer.precision=16-mixed", "`trainer.precision`=16-mixed needs a GPU"),
    ("output_dir=file/below", "`output_dir`: file/below cannot be written (Not a directory)"),
    ("output_dir=file", "`output_dir`: file is a file"),
    ("output_dir=there", "`output_dir`: there already exists; give another, or go on by resume=there"),
    ("-m seed=1,2 output_dir=there", "`output_dir`: there already exists; a sweep needs a directory of its own"),
    ("dataset=npz", "`dataset.path` must be a file with x_train, y_train, x_test, y_test, got None"),
    ("dataset=npz dataset.path=nowhere.npz", "nowhere.npz is not a file: set `dataset.path=`"),
    ("dataset=image_folder dataset.path=nowhere", "nowhere/train is not a folder"),
]


@pytest.mark.parametrize(("written", "line"), WRITTEN, ids=[w[0] for w in WRITTEN])
def test_what_is_written_wrongly(written, line, capsys, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    Path("file").write_text("")
    Path("there").mkdir()
    Path("there/something").write_text("")
    assert line in refused(capsys, "train", "attack=none", *written.split())


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: one rank")
def test_a_batch_is_shared_evenly(capsys):
    line = refused(capsys, "train", "trainer=ddp", "trainer.accelerator=cpu", "schedule.batch_size=129")
    assert "`schedule.batch_size` must be a multiple of the 2 ranks that share it, got 129" in line


def test_what_is_written_wrongly_for_other_commands(capsys):
    assert refused(capsys, "trian").startswith("`trian` is not a command; did you mean `train`?")
    assert refused(capsys, "certify").startswith("`run` must be given")
    assert refused(capsys, "certify", "outputs/1").endswith("did you mean `run=outputs/1`?")
    assert "`run`: missing is not a run's directory" in refused(capsys, "certify", "run=missing")
    assert "`steps` is not a key of `lipcert certify`" in refused(capsys, "certify", "run=missing", "steps=[1]")
    assert "`eps`=[1] is of a hybrid classifier" in refused(capsys, "certify", "run=missing", "eps=[1]")
    assert "`device`=foo can't be used here" in refused(capsys, "certify", "run=missing", "device=foo")
    assert "`run`: missing is not a run's directory" in refused(capsys, "attack", "run=missing", "attack=fgsm")
    assert "needs runs" in refused(capsys, "compare")
    assert "`missing` is not a directory" in refused(capsys, "compare", "missing")
    assert "`it's` is not a directory" in refused(capsys, "compare", "it's")
    assert "is not a directory" in refused(capsys, "compare", f"../{'x' * 256}")
    assert "`.` holds no run" in refused(capsys, "compare", ".")


BOOM = "+schedule.boom={_target_: lipcert.schedules.Milestones, drives: optimizer.lr, epochs_at: [1], factor: 1.0e+30}"


def test_a_diverging_loss_stops_training_and_keeps_the_last_good_checkpoint(capsys):
    model = ("model=convnet", "model.channels=[4,4]", "model.hidden=16", "optimizer=sgd")
    arguments = (*TINY, *model, "schedule.epochs=3", "schedule.batch_size=50", BOOM)
    told = lipcert(capsys, "train", *arguments, "output_dir=run")
    assert told.status == 2 and told.err.startswith("lipcert: the loss is ") and told.err.count("\n") == 1
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert f" at step {checkpoint['global_step'] + 1} " in told.err
    assert checkpoint["epochs_done"] == 1
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_weights_that_the_last_step_ruins_are_not_saved(capsys, monkeypatch):
    """The loss of that step is still finite: only a look at the weights tells."""
    step, steps = Training.optimizer_step, []

    def ruin(module, *arguments, **keywords):
        step(module, *arguments, **keywords)
        steps.append(1)
        if len(steps) == 4:
            next(module.parameters()).data.fill_(torch.nan)

    monkeypatch.setattr(Training, "optimizer_step", ruin)
    run = (*TINY, "schedule.epochs=2", "schedule.batch_size=50", "dataset.val_size=0", "output_dir=run")
    told = lipcert(capsys, "train", *run)
    assert told.status == 2 and "the weights are no longer finite after step 4" in told.err
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["epochs_done"] == 1


def test_a_broken_certificate_has_a_status_of_its_own():
    assert message(CertificateBroken("image 3"), "attack") == ("image 3", 3)


def test_torch_and_torchvision_of_different_places():
    """What a CPU-only torch beside the index's torchvision dies of while lightning is imported."""
    try:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ImportError("lightning") from error
    except ImportError as error:
        line, status = message(error, "train")
    assert status == 2 and "pip install --force-reinstall torch torchvision" in line


def test_a_full_disk_is_no_defect():
    assert message(OSError(28, "No space left on device", "run/metrics.csv"), "train") == (
        "run/metrics.csv: No space left on device",
        2,
    )


@pytest.mark.parametrize("key, values, must", [("seed", "ab", "be int, got '{}'"), ("schedule.epochs", [-1, -2], "")])
def test_a_sweep_whose_jobs_are_all_refused_leaves_nothing(key, values, must, capsys):
    """By a look at the configuration, and by what is built of it."""
    told = lipcert(capsys, "train", "-m", *TINY, f"{key}={','.join(map(str, values))}", "output_dir=sweep")
    assert told.status == 2
    for i, (line, value) in enumerate(zip(told.err.splitlines(), values, strict=True)):
        assert line.startswith(f"lipcert: job {i}: `{key}` must {must.format(value)}")
    assert not Path("sweep").exists()


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_job_that_fails(capsys):
    told = lipcert(capsys, "train", "-m", "dataset.subset=100,x,90", "schedule.epochs=1", "attack=none", "output_dir=s")
    lines = [line for line in told.err.splitlines() if line.startswith("lipcert:")]  # others are bars
    assert told.status == 2 and len(lines) == 1 and lines[0].startswith("lipcert: job 1: `dataset.subset`")
    assert sorted(path.name for path in Path("s").iterdir()) == [
        ".lock",
        "multirun.yaml",
        "subset=100",
        "subset=90",
        "sweep.json",
    ]
    assert Path("s/subset=100/summary.json").exists() and Path("s/subset=90/summary.json").exists()


def test_what_can_not_be_certified_in_the_end_is_not_trained(capsys):
    line = refused(capsys, "train", *TINY, "model=linf_dist", "model.width=8", "schedule.p.after=1000")
    assert "`features.2`: a distance layer at p = 1000 is not 1-Lipschitz" in line
    assert "only p = inf is certified" in line


def test_a_loss_that_does_not_fit_the_model_is_refused_before_training(capsys):
    line = refused(capsys, "train", *TINY, "model=linf_dist", "model.width=8", "loss=ibp")
    assert line.startswith("`loss=ibp` needs a model that can be propagated through")
