"""DVC's plots in a page that loads nothing."""

import pytest

from pipeline.files import write_csv
from stages import plots
from tests.project import run, stage_here

PIPELINE = """
stages:
  train:
    cmd: "true"
    plots:
      - curve.csv: {cache: false, x: epoch, y: validation_accuracy}
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots")
    (folder / "dvc.yaml").write_text(PIPELINE)
    write_csv(folder / "curve.csv", [{"epoch": n, "validation_accuracy": 0.9 + n / 100} for n in range(5)])
    run(folder, "dvc", "init", "--no-scm", "-q")
    run(folder, "dvc", "config", "core.analytics", "false")
    assert stage_here(folder, plots.main).returncode == 0
    return folder / "dvc_plots" / "index.html"


def test_a_browser_without_a_network_draws_the_curve(page, browser):
    browser.set_network_conditions(offline=True, latency=0, throughput=0)
    browser.get_log("browser")
    browser.get(page.as_uri())
    drawn = browser.execute_async_script("""
        const done = arguments[0], wait = tries => {
            const plot = document.querySelector(".vega-embed canvas, .vega-embed svg");
            plot || !tries ? done(Boolean(plot)) : setTimeout(wait, 100, tries - 1);
        };
        wait(100);
    """)
    assert drawn
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_without_a_dvc_project_the_error_says_where_to_look(tmp_path):
    failed = stage_here(tmp_path, plots.main)
    assert failed.returncode == 1
    assert "DVC made no page" in failed.stderr
