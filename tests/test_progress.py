"""How far a computation is: a bar for a person, few lines for a file."""

import pytest
from rich.console import Console

from lipcert import progress
from lipcert.progress import Progress, clock, track


@pytest.fixture
def clocked(monkeypatch):
    """A clock that moves when it is told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_is_told_every_half_minute_and_the_last(clocked, capsys):
    with Progress("training", 100, done=20) as shown:
        for epoch in range(3, 11):
            clocked[0] += 20.0
            shown.move(10 * epoch, f"epoch {epoch}/10")
            shown.tell("loss 0.5")
    told = capsys.readouterr()
    assert told.out == "" and told.err.splitlines() == [
        "epoch 4/10: loss 0.5, 0:00:40 elapsed, about 0:02:00 to go",
        "epoch 6/10: loss 0.5, 0:01:20 elapsed, about 0:01:20 to go",
        "epoch 8/10: loss 0.5, 0:02:00 elapsed, about 0:00:40 to go",
        "epoch 10/10: loss 0.5, 0:02:40 elapsed",
    ]


def test_what_ends_sooner_tells_its_last_note_alone_and_a_failure_nothing(clocked, capsys):
    with Progress("train", 2, stderr=False) as shown:
        for epoch in (1, 2):
            shown.tell(f"epoch {epoch}/2")
    assert capsys.readouterr() == ("train: epoch 2/2, 0:00:00 elapsed\n", "")
    with pytest.raises(ValueError), Progress("train", 2) as shown:
        shown.tell("epoch 1/2")
        raise ValueError
    with Progress("train", 2, shown=False) as shown:
        shown.tell("epoch 1/2")
    assert capsys.readouterr() == ("", "")


def test_items_are_counted(clocked, capsys):
    for item in track("abcd", "certify", 4):
        clocked[0] += 25.0 if item != "d" else 1.0
    assert capsys.readouterr().err.splitlines() == ["certify: 2/4, 0:00:50 elapsed, about 0:00:50 to go"]
    assert list(track(iter(range(3)), "certify", 3)) == [0, 1, 2]


def test_a_person_sees_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(stderr=stderr, force_terminal=True, width=120))
    with Progress("train", 10) as shown:
        shown.move(10, "attack")
        shown.tell("loss 0.5")
    seen = capsys.readouterr().err
    assert "attack" in seen and "10/10" in seen and "loss 0.5" in seen and "elapsed" not in seen


def test_clock():
    assert [clock(seconds) for seconds in (0.4, 65, 7322.0)] == ["0:00:00", "0:01:05", "2:02:02"]
