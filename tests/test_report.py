"""Tables say what the numbers say: values by hand, no failure dropped, nothing that varies by itself."""

import dataclasses
import re
from pathlib import Path

import pytest

from pipeline.errors import ArtifactError, ConfigError
from pipeline.report import document, ledger, render, statistics, tables
from pipeline.report.published import Published, published_table, read_published
from stages import report as report_stage
from stages import tables as tables_stage
from tests.fabricated import StubConfig, finish, make_run, put, write_project

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def results(tmp_path):
    """Three seeds whose pruned networks are 0.1, 0.2 and 0.3 points better than the reference."""
    return [result(tmp_path, seed, pruned) for seed, pruned in enumerate((0.981, 0.982, 0.983))]


def result(root, seed=0, pruned=0.97, ratio=10, **how):
    run = make_run(seed, ratio)
    finish(root, run, pruned=pruned, **how)
    return ledger.read_result(root, StubConfig(), run)


def cell(table, row, header):
    return table.rows[row][table.headers.index(header)]


def test_spread_by_hand():
    # Squared deviations 1 + 0 + 1 over n - 1 = 2; t(0.975, 2) = 4.302653, by sqrt(3): 2.484138.
    found = statistics.spread([1.0, 2.0, 3.0])
    assert (found.n, found.mean, found.std) == (3, 2.0, 1.0)
    assert found.margin == pytest.approx(2.484138, abs=1e-6)


def test_no_interval_below_three_values_and_no_std_of_one():
    assert statistics.spread([1.0, 2.0]).margin is None
    assert statistics.spread([1.0, 2.0]).std == pytest.approx(0.70710678)
    assert statistics.spread([5.0]) == statistics.Spread(1, 5.0, None, None)


def test_seeds_are_paired_and_put_together(results):
    table = tables.seeds_table(statistics.group(results))
    assert len(table.rows) == 1
    assert cell(table, 0, "seeds") == "3"
    assert cell(table, 0, "dense best (%)") == "98.000 ± 0.000"
    assert cell(table, 0, "pruned (%)") == "98.200 ± 0.100"
    assert cell(table, 0, "paired difference (pp)") == "+0.200 [-0.048, +0.448]"
    assert cell(table, 0, "compression, weights") == "10.00x"
    assert cell(table, 0, "compression, all parameters") == "5.50x"
    assert cell(table, 0, "bytes, sparse") == "1,234"
    assert cell(table, 0, "converged") == "3 of 3"


def test_methods_stand_side_by_side_where_several_were_run_at_one_ratio(results, tmp_path):
    pair = [result(tmp_path, 0, 0.981), result(tmp_path, 1, 0.982, converged=False)]
    l1 = [dataclasses.replace(one, run=dataclasses.replace(one.run, method="admm-l1")) for one in pair]
    table = tables.methods_table(statistics.group([*l1, *results, result(tmp_path, ratio=20)]))
    assert table.headers == ("experiment", "data set", "asked", "reweighted-admm", "admm-l1")
    assert table.rows == [("fabricated", "mnist", "10x", "98.200 ± 0.100 (3)", "98.150 ± 0.071 (2) *")]


def test_seconds_of_training_are_those_of_the_records(tmp_path):
    """fabricated.vouch: 1.5 s a stage, and three stages of training."""
    runs = [make_run(0), make_run(1)]
    write_project(tmp_path, runs)
    for run in runs:
        finish(tmp_path, run)
        ledger.write_record(tmp_path, ledger.gather(tmp_path, StubConfig(), run))
    groups = statistics.group(ledger.read_ledger(tmp_path))
    table = tables.with_seconds(tables.seeds_table(groups), groups)
    assert cell(table, 0, "training (s)") == "4"  # 4.5, to the even number
    assert len(table.rows[0]) == len(table.headers)


def test_pairing_uses_each_seeds_own_dense_network(tmp_path):
    pair = [result(tmp_path, 0, 0.97), result(tmp_path, 1, 0.99)]
    easier = {**pair[1].metrics["evaluate"], "dense_best_accuracy": 1.0}
    pair[1] = dataclasses.replace(pair[1], metrics={**pair[1].metrics, "evaluate": easier})
    found = statistics.group(pair)[0].difference
    assert found.mean == pytest.approx(-0.01)
    assert found.std == pytest.approx(0.0, abs=1e-12)


def test_other_settings_and_ratios_are_never_averaged(results, tmp_path):
    other = dataclasses.replace(results[2], params={**results[2].params, "extra_epochs": 99})
    groups = statistics.group([*results[:2], other, result(tmp_path, ratio=20)])
    table = tables.seeds_table(groups)
    assert [cell(table, row, "seeds") for row in range(3)] == ["2", "1", "1"]
    assert cell(table, 0, "method") == "reweighted-admm (settings of seed 0, 1)"
    assert cell(table, 2, "method") == "reweighted-admm"
    assert cell(table, 1, "pruned (%)") == "98.300 ± –"


def test_a_failure_stays_in_the_mean_and_is_marked(tmp_path):
    pair = [result(tmp_path, 0, 0.98), result(tmp_path, 1, 0.96, converged=False)]
    table = tables.seeds_table(statistics.group(pair))
    assert cell(table, 0, "paired difference (pp)") == "-1.000"
    assert cell(table, 0, "converged") == "1 of 2: not converged, supports no claim"
    assert cell(tables.result_table(pair), 1, "converged") == "not converged, supports no claim"
    assert cell(tables.handover_table(pair), 1, "converged") == "not converged, supports no claim"


def test_result_row_by_hand(tmp_path):
    assert tables.result_table([result(tmp_path)]).rows == [(
        "fabricated-reweighted-admm-10x-s0", "96.00", "98.00", "97.00", "-1.00", "10.00x", "5.50x", "100",
        "4,400", "1,234", "2.000 (pytorch)", "1.250 (pytorch)", "yes",
    )]  # fmt: skip


def test_layers_and_handover_by_hand(tmp_path):
    found = [result(tmp_path)]
    assert tables.layer_table(found).rows == [("conv1", "200", "50 (25.00 %)"), ("fc1", "800", "50 (6.25 %)")]
    assert tables.handover_table(found).rows[0][1:] == (
        "104", "100", "0.0123", "96.00", "94.00", "95.00", "3e-05", "2", "yes",
    )  # fmt: skip


def test_latency_that_was_not_asked_for_is_left_open(tmp_path):
    found = result(tmp_path)
    benchmark = {**found.metrics["benchmark"], "runtimes": {}}
    found = dataclasses.replace(found, metrics={**found.metrics, "benchmark": benchmark})
    assert cell(tables.result_table([found]), 0, "fastest, pruned (ms)") == "–"


@pytest.mark.parametrize(("fraction", "text"), [(0.0012, "+0.12"), (-0.0012, "-0.12"), (-1e-18, "+0.00")])
def test_points_are_signed_and_zero_is_not_negative(fraction, text):
    assert render.points(fraction) == text


def test_markdown_and_terminal_by_hand():
    table = render.Table(("run", "n"), [("a|b", "1"), ("c", "20")])
    assert render.markdown(table) == "| run | n |\n| --- | ---: |\n| a\\|b | 1 |\n| c | 20 |\n"
    assert render.terminal(table) == "run  a|b   c\nn      1  20"


def test_many_runs_do_not_widen_the_terminal():
    table = render.Table(("run", "n"), [(f"r{i}", "1") for i in range(7)])
    assert render.terminal(table).count("run ") == 3


def test_tables_go_between_their_markers_only():
    text = "a\n<!-- table:one -->\nold\n<!-- end:one -->\nb\n<!-- table:two -->\n<!-- end:two -->\n"
    found = render.replace_tables(text, {"one": "1\n", "two": "2\n"}, "README.md")
    assert found == "a\n<!-- table:one -->\n1\n<!-- end:one -->\nb\n<!-- table:two -->\n2\n<!-- end:two -->\n"
    assert render.replace_tables(found, {"one": "1\n", "two": "2\n"}, "README.md") == found


@pytest.mark.parametrize("text", [
    "<!-- table:one -->\n", "<!-- end:one -->\n", "<!-- table:one -->\n<!-- end:two -->\n",
    "<!-- table:one -->\n<!-- table:two -->\n<!-- end:two -->\n<!-- end:one -->\n",
    "<!-- table:x -->\n<!-- end:x -->",
])  # fmt: skip
def test_lone_crossed_and_unknown_markers_are_errors(text):
    with pytest.raises(ArtifactError, match=r"README\.md"):
        render.replace_tables(text, {"one": "1\n", "two": "2\n"}, "README.md")


def published(compression, **more):
    return Published(network="LeNet-5", compression=compression, work="W", year=2000, source="S", **more)


def test_published_numbers_meet_the_nearest_converged_ratio(tmp_path):
    groups = statistics.group([
        with_ratio(result(tmp_path, 0), 10.0), with_ratio(result(tmp_path, 0, ratio=100), 100.0),
        with_ratio(result(tmp_path, 0, ratio=400, converged=False), 400.0),
    ])  # fmt: skip
    table = published_table([published(20, dataset="MNIST", claim="C1"), published(355.9)], groups)
    assert [cell(table, row, "compression (ours)") for row in (0, 1)] == ["10.00x", "100.00x"]
    assert cell(table, 0, "work (published)") == "W (C1), 2000"
    assert cell(table, 1, "compression (published)") == "355.9x"


def with_ratio(found, ratio):
    benchmark = found.metrics["benchmark"]
    counts = {**benchmark["counts"], "compression_ratio": ratio}
    return dataclasses.replace(found, metrics={**found.metrics, "benchmark": {**benchmark, "counts": counts}})


def test_other_data_is_not_compared(tmp_path):
    entries = [published(10), published(20, dataset="ImageNet")]
    table = published_table(entries, statistics.group([result(tmp_path)]))
    assert [cell(table, row, "compression (ours)") for row in (0, 1)] == ["no converged run on its data set"] * 2


def test_works_on_networks_that_we_have_not_pruned_are_left_out(tmp_path):
    found = result(tmp_path)
    found = dataclasses.replace(found, params={**found.params, "model": {"name": "resnet32"}})
    other = Published(network="ResNet-32", compression=6.61, work="W", year=2000, source="S")
    table = published_table([published(10), other], statistics.group([found]))
    assert [row[0] for row in table.rows] == ["ResNet-32"]
    assert cell(table, 0, "data set (ours)") == "mnist"


def test_the_papers_numbers_are_those_of_the_method():
    entries = {(entry.network, float(entry.compression), entry.claim) for entry in read_published(PROJECT)}
    assert entries == {
        ("LeNet-5", 355.9, "C1"), ("ResNet-50", 4.24, "C2"), ("LeNet-5", 71.2, None), ("LeNet-5", 167, None),
        ("LeNet-5", 246, None), ("ResNet-50", 8, None), ("LeNet-5", 125, None), ("LeNet-5", 300, None),
        ("ResNet-56", 10, None), ("ResNet-32", 6.61, None), ("ResNet-56", 9.93, None), ("LeNet-5", 630, None),
        ("ResNet-50", 3.2, None),
    }  # fmt: skip


def test_a_wrong_published_entry_is_named(tmp_path):
    put(tmp_path / "paper" / "published.yaml", {"published": [{"network": "LeNet-5"}]})
    with pytest.raises(ConfigError, match=r"paper/published\.yaml"):
        read_published(tmp_path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    runs = [make_run(0), make_run(1)]
    write_project(tmp_path, runs)
    for run in runs:
        finish(tmp_path, run)
    put(tmp_path / "paper" / "published.yaml", {"published": [published(20).model_dump()]})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_report_is_the_same_every_time_and_names_no_time_or_place(project):
    report_stage.main(["fabricated"])
    file = project / "reports" / "fabricated.md"
    first = file.read_text()
    report_stage.main(["fabricated"])
    assert file.read_text() == first
    assert not re.search(r"\d{4}-\d\d-\d\d|:\d\d:", first)
    assert str(project) not in first
    assert "| prune.reweighted-admm.rho | 0.01 |" in first
    assert "| prepare.dataset | mnist |" in first
    assert "data set mnist (digest feedfacefeed), 10,000 test pictures" in first


def test_the_report_needs_metrics_only(project):
    for folder in (".scratch", "artifacts"):
        (project / folder).rename(project / f"gone{folder}")
    report_stage.main(["fabricated"])
    assert "fabricated-reweighted-admm-10x-s1" in (project / "reports" / "fabricated.md").read_text()


def test_the_report_of_unfinished_runs_is_one_clear_error(project):
    (project / "metrics/fabricated/reweighted-admm-10x-s1/evaluate.json").unlink()
    with pytest.raises(ArtifactError, match=r"10x-s1 is not finished.*evaluate\.json"):
        report_stage.main(["fabricated"])
    assert not (project / "reports").exists()


def test_an_experiment_without_runs_is_an_error(tmp_path, monkeypatch):
    write_project(tmp_path, [])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no run of the experiment fabricated is listed"):
        report_stage.main(["fabricated"])


def test_show_prints_the_results_and_where_more_is(project, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    report_stage.main(["fabricated", "--show"])
    printed = capsys.readouterr().out
    assert re.search(r"^pruned \(%\) +97\.00 +97\.00$", printed, re.MULTILINE)
    for text in ("reports/fabricated.md", "mlflow.db", "make ui"):
        assert text in printed
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:word@tracking.example/db")
    report_stage.main(["fabricated", "--show"])
    printed = capsys.readouterr().out
    assert "https://tracking.example/db" in printed
    assert "word" not in printed


TABLES = ("results", "methods", "verdicts", "runtimes")


def test_readme_tables_are_written_checked_and_found_out_of_date(project):
    readme = project / "README.md"
    readme.write_text("# T\n" + "".join(f"<!-- table:{n} -->\n<!-- end:{n} -->\n" for n in TABLES))
    tables_stage.main([])
    assert document.NO_RECORD in readme.read_text()
    tables_stage.main(["--check"])
    for run in (make_run(0), make_run(1)):
        ledger.write_record(project, ledger.gather(project, StubConfig(), run))
    with pytest.raises(ArtifactError, match="out of date"):
        tables_stage.main(["--check"])
    tables_stage.main([])
    tables_stage.main(["--check"])
    text = readme.read_text()
    assert "| fabricated | mnist | 10.00x | 2 | 98.000 ± 0.000 | 97.000 ± 0.000 | -1.000 | 1,234 | 2 of 2 |" in text
    assert document.NOT_COMPARED in text
