"""The papers' tables as data: they load, rows compose, check and build, and commands mean what they say."""

import copy
import re

import pytest
import yaml
from configurations import CONF, built, changes, composed, kind
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from lipcert.commands import reproduce
from lipcert.configuration import build, plain
from lipcert.frozen.freeze import freeze
from lipcert.reporting import published
from lipcert.reproduction.jobs import jobs

NAMES = published.names()
TABLES = {name: published.load(name) for name in NAMES}
TRAINED = [(t, r) for t, table in TABLES.items() for r, row in table.rows.items() if row.trained and row.recipe]
ONE_A_TABLE = list({table: (table, row) for table, row in reversed(TRAINED)}.values())
EVERY_ROW = [pytest.param(*at, marks=[] if at in ONE_A_TABLE else [pytest.mark.slow]) for at in TRAINED]


def row(table: str, name: str, *overrides: str) -> dict:
    return composed(*TABLES[table].rows[name].arguments(), *overrides)


def test_every_table_of_the_papers_is_there():
    assert {name.partition("/")[0] for name in NAMES} == {"iclr2022", "l2nnn", "linf_dist", "lmt", "poster", "tulip"}
    assert {f"l2nnn/table{i}" for i in range(1, 11)} | {f"tulip/table{i}" for i in range(1, 7)} <= set(NAMES)
    assert NAMES.index("l2nnn/table9") + 1 == NAMES.index("l2nnn/table10")
    sizes = {name: len(table.rows) for name, table in TABLES.items()}
    assert {sizes[f"l2nnn/table{i}"] for i in (7, 8)} == {25} and {sizes[f"tulip/table{i}"] for i in (3, 4, 5, 6)} == {
        24
    }
    assert sizes["linf_dist/table7"] == 12 and sizes["l2nnn/table10"] == 7 and sizes["poster/table2"] == 6


@pytest.mark.parametrize("name", NAMES)
def test_a_table_says_where_it_is_from_and_each_column_where_its_number_is(name):
    table = TABLES[name]
    assert table.name == name and table.title and table.source and table.place
    assert all(claim.text.endswith(".") for claim in table.claims)
    for column in table.columns.values():
        fraction = column.key and re.search(r"(^|[/:])((clean|certified|robust)_accuracy|delegated)", column.key)
        assert (column.unit == "percent") == bool(fraction) or column.key is None
    for row in table.rows.values():
        assert not row.radius or any("{radius}" in (column.key or "") for column in table.columns.values())
        assert row.published or row.uncertain or name == "tulip/figure1" or row.name.startswith("rand100_")
        assert all(0 <= value <= 100 for c, value in row.published.items() if table.columns[c].unit == "percent")
    assert all(row.command == "train" for row in table.rows.values()) or name == "tulip/table2"


@pytest.mark.parametrize(("table", "name"), EVERY_ROW)
def test_a_row_composes_builds_and_is_what_its_command_says(table, name):
    config = row(table, name)
    built(config)
    job = jobs(TABLES[table], "full", [name], 1, "out", None)[-1]
    lines = job.lines
    words = [word for word in lines[0][1:] if not word.startswith(("seed=", "output_dir=")) and word not in job.tried]
    assert lines[0][0] == "train" and composed(*words) == config
    labels = {build(config["attack"]).label} if "_target_" in config["attack"] else set()
    for overrides in TABLES[table].attacks:
        labels.add(build(composed(*overrides)["attack"]).label)
    for column in TABLES[table].rows[name].published:
        key = TABLES[table].columns[column].key or ""
        measured, *rest = key.replace("{radius}", repr(TABLES[table].rows[name].radius)).split("/")
        if measured in ("robust_accuracy", "median_distance"):
            assert rest[0] in labels
        if measured == "certified_accuracy":
            assert float(rest[0]) in config["eps"]


def test_the_flops_of_a_network_are_those_that_the_paper_prints():
    published = TABLES["linf_dist/table1"].rows["mnist_ibp"].published["flops"]
    model = build(composed("experiment=linf_dist/ibp")["model"], input_shape=(1, 28, 28), num_classes=10)
    network = freeze(model.eval(), (1, 28, 28), "linf")
    assert round(sum(operation.products for operation in network.operations) / 1e6) == published


def test_values_are_found_at_the_row_and_the_column_that_the_paper_prints():
    """A few of each kind: plain, of a variant, of a lower bound, uncertain, missing."""
    assert TABLES["l2nnn/table1"].rows["model2"].published["at_1000000"] == 7.6
    assert TABLES["l2nnn/table8"].rows["rand75_early_stopping"].published == {"accuracy": 75.2}
    assert TABLES["l2nnn/table8"].rows["rand100_early_stopping"].published == {}
    assert TABLES["poster/table1"].rows["w0_5_no_dbc"].published["gap"] == 7.950e-4
    assert TABLES["linf_dist/table7"].rows["depth10_gaussian"].published == {"train": 58.72, "test": 55.04}
    assert TABLES["lmt/svhn"].rows["average"].at_least == ["median_radius"]
    assert TABLES["tulip/table1"].rows["cifar100_l2"].uncertain == {"median": "lost in our copy"}
    assert TABLES["tulip/table3"].rows["resnext_l2_tanh_penalty"].published["error"] == 12.12
    assert TABLES["tulip/table5"].rows["resnext_tanh"].uncertain.keys() == {"clean_error", "error"}


def test_rows_that_two_tables_share_are_the_same_and_print_the_same():
    for cifar, table in (("cifar10", "tulip/table3"), ("cifar100", "tulip/table5")):
        for name, variant in (("baseline", "baseline"), ("l2", "l2"), ("tulip", "l2_tanh_penalty")):
            one, other = TABLES["tulip/table1"].rows[f"{cifar}_{name}"], TABLES[table].rows[f"resnext_{variant}"]
            assert one.published["error"] == other.published["error"]
            assert composed(*one.arguments()) == composed(*other.arguments())
    ordinary = {column: None for column in ("vanilla", "wd", "dropout", "early_stopping", "wd_dropout_early_stopping")}
    for share in ("rand0", "rand25", "rand50", "rand75"):
        for column in ordinary:
            of_both = (TABLES[f"l2nnn/table{i}"].rows[f"{share}_{column}"].published["accuracy"] for i in (7, 8))
            assert TABLES["l2nnn/table5"].rows[share].published[column] == max(of_both)


def test_ablations_change_one_thing():
    full = row("l2nnn/table3", "whole")
    assert changes(full, row("l2nnn/table3", "max_pooling")) == {"model.pooling": "max"}
    assert changes(full, row("l2nnn/table3", "no_confidence_loss")) == {"loss.omega": 0.0}
    a, b, c, d, e = (row("linf_dist/table3", f"{letter}_net_mlp") for letter in "abcde")
    assert changes(e, d) == {"optimizer.follow_p": False}
    assert changes(e, c) == {"optimizer.weight_decay": 0.0}
    assert changes(c, b) == {"model.identity": False}
    assert changes(b, a) == {"schedule.p.begin": 0.0, "schedule.p.finish": 0.0}
    gaussian, identity = (row("linf_dist/table7", f"depth7_{start}") for start in ("gaussian", "identity"))
    assert changes(identity, gaussian) == {"model.identity": False}
    average = changes(row("lmt/table1", "lmt"), row("lmt/svhn", "average"))
    assert average == {"model.average_shortcut": True, "loss.c": 0.1, "schedule.c.end": 0.1}


def test_a_row_has_a_job_for_each_seed_and_attacks_run_on_each():
    def lines(table: str, row: str, **options) -> list[list[str]]:
        given = {"seeds": None, "data_dir": None, **options}
        found = jobs(TABLES[table], "full", [row], given["seeds"], "out", given["data_dir"])
        return [job.shell() for job in found if (job.table, job.row.name) == (table, row)]

    ((train, *attacks),) = lines("l2nnn/table1", "model3", data_dir="a b")
    run = "out/l2nnn/table1/full/model3/seed=0"
    assert train == (f"lipcert train experiment=l2nnn/mnist attack.images=null seed=0 'data_dir=a b' output_dir={run}")
    assert attacks[0] == (
        f"lipcert attack run={run} attack=carlini_wagner_l2 attack.steps=100 attack.images=null 'data_dir=a b'"
    )
    assert len(attacks) == 6 and attacks[4] == f"lipcert certify run={run} analysis=deciles 'data_dir=a b'"
    other = "out/l2nnn/table1/full/model1/seed=0"  # which is trained before
    assert f"analysis=hybrid other={other} threshold=1.0" in attacks[5]
    assert [job.row.name for job in jobs(TABLES["l2nnn/hybrid"], "full", ["mnist"], 1, "out", None)] == [
        "model1",
        "model3",
    ]
    assert len(lines("linf_dist/table1", "mnist_net")) == 8 and len(lines("l2nnn/table1", "model3", seeds=3)) == 3
    assert " seed=2021 " in lines("iclr2022/results", "mnist_0_3")[0][0]
    assert lines("tulip/table2", "mnist") == [
        ["lipcert separation dataset=mnist output_dir=out/tulip/table2/full/mnist/run"]
    ]


WHOLE = yaml.safe_load((CONF / "table" / "l2nnn" / "table7.yaml").read_text())
BROKEN = [
    (lambda t: t.pop("title"), "`title` must be given"),
    (lambda t: t.update(titel="x"), "`titel` is no key; did you mean `title`?"),
    (lambda t: t.update(claims="one"), "`claims` is of the wrong type: 'one'"),
    (lambda t: t.update(claims=[{"text": "x", "tests": "y"}]), "`claims.tests` is no key; did you mean `test`?"),
    (lambda t: t.update(statistic="mode"), "`statistic` must be mean or median, got 'mode'"),
    (lambda t: t.update(laptop={"minute": 3}), "`laptop.minute` is no key; did you mean `minutes`?"),
    (lambda t: t.update(laptop={"rows": {"rnd0": {}}}), "`laptop.rows` names rnd0, which is none of the table's"),
    (
        lambda t: t.update(laptop={"rows": {"rand0_wd": {"x": 1}}}),
        "`laptop.rows.rand0_wd` may have recipe and",
    ),
    (lambda t: t["rows"]["rand0"].update(reference="x"), "reference` names x, which is no row"),
    (lambda t: t["columns"]["accuracy"].update(unit="points"), "`columns.accuracy.unit` must be percent or number"),
    (lambda t: t["columns"].update(other="x"), "`columns.other` must be a mapping, got 'x'"),
    (lambda t: t["rows"]["rand0"]["published"].update(wdd={}), "`rows.rand0.published` names wdd, which is no variant"),
    (lambda t: t["rows"]["rand0"]["published"].update(wd={"acc": 1}), "`rows.rand0.published` names acc, which is no"),
    (lambda t: t["rows"]["rand0"]["published"].update(wd={"accuracy": "x"}), "accuracy must be a number, got 'x'"),
    (lambda t: t["rows"]["rand0"].pop("title"), "`rows.rand0.title` must be given"),
    (lambda t: t["variants"]["wd"].update(recip="x"), "`variants.wd.recip` is no key; did you mean `recipe`?"),
    (lambda t: t.pop("recipe"), "`rows.rand0.recipe` must be given, or trained: false"),
]


@pytest.mark.parametrize(("spoil", "message"), BROKEN)
def test_a_damaged_table_is_refused_in_one_line_that_names_the_file_and_the_key(spoil, message):
    spoilt = copy.deepcopy(WHOLE)
    spoil(spoilt)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        published.read(spoilt, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ") and "\n" not in str(caught.value)


def test_an_unknown_table_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="`table=l2nnn/tabel5`: there is no such table; did you mean `l2nnn/table5`?"):
        published.load("l2nnn/tabel5")
    with pytest.raises(ValueError, match="must be a mapping, got None"):
        published.read(None, "my.yaml")


def reproduced(capsys, *overrides: str) -> str:
    GlobalHydra.instance().clear()
    with initialize_config_module("lipcert.conf", version_base="1.3"):
        reproduce.run(**plain(compose("reproduce", list(overrides))))
    return capsys.readouterr().out


def test_the_command_lists_all_tables_or_prints_one_with_its_rows_commands(capsys):
    listed = reproduced(capsys)
    assert all(name in listed and TABLES[name].title in listed for name in NAMES)
    told = reproduced(
        capsys,
        "table=tulip/table5",
        "rows=[resnext_tanh,allcnn_l2]",
        "data_dir=data",
        "output_dir=out",
        "seeds=1",
        "print=true",
    )
    assert "# resnext_tanh: ResNeXt34" in told
    commands = [line for line in told.splitlines() if line.startswith("lipcert train ")]
    assert [line.split()[-1] for line in commands] == [
        "output_dir=out/tulip/table5/full/resnext_tanh/seed=0",
        "output_dir=out/tulip/table5/full/allcnn_l2/seed=0",
    ]
    shown = reproduced(capsys, "table=lmt/mnist", "rows=[kolter_wong]")
    assert (
        "> 94" in shown and "Claim: LMT's median certified radius is more than" in shown and "[not measured]" in shown
    )
    with pytest.raises(ValueError, match="`rows`: lmt/mnist has no row navie; did you mean `naive`?"):
        reproduced(capsys, "table=lmt/mnist", "rows=[navie]")


def test_the_network_of_a_row_is_the_one_that_the_table_is_about():
    assert kind(row("l2nnn/table5", "rand50")["model"]) == "L2NNNDeep"
    assert kind(row("l2nnn/table7", "rand50_wd")["model"]) == "ConvNet"
    assert kind(row("l2nnn/table8", "rand50_wd")["model"]) == "OrdinaryDeep"
    assert kind(row("linf_dist/table9", "conv_net_mlp")["model"]) == "LinfDistConv"
    assert kind(row("lmt/table1", "parseval")["model"]) == "ParsevalResNet"
    assert kind(row("tulip/table5", "allcnn_l2")["model"]) == "AllCNN"


def test_a_row_may_be_another_tables_at_laptop_scale():
    """MNIST stands for both data sets of TULIP: the rows of Tables 5 and 6 are Table 3's runs."""
    for name in ("tulip/table5", "tulip/table6"):
        table = published.load(name)
        found = jobs(table, "laptop", ["resnet34_tanh"], None, "out", None)
        assert [(job.table, job.row.name) for job in found] == [("tulip/table3", "resnet34_tanh")]
        own = jobs(table, "full", ["resnet34_tanh"], None, "out", None)
        assert [(job.table, job.row.name) for job in own] == [("tulip/table5", "resnet34_tanh")]
