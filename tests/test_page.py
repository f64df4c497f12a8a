"""The page: what it says, from numbers known by hand, and what a browser without a network makes of it."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline.errors import ArtifactError
from pipeline.files import digest_of_file
from pipeline.layout import curve_file, iterations_file, provenance_folder, weights_file
from pipeline.report import canvas, ledger
from pipeline.report.connections import SHAPES, Connections, connections
from pipeline.report.curves import read_curves
from pipeline.report.dvc_plots import PLOTS_FILE
from pipeline.report.network_plot import drawn_record
from pipeline.report.page import HTML_FILE, MARKDOWN_FILE, build
from pipeline.report.verdicts import read_audit, tally
from pipeline.sparse import save_sparse
from stages import page as page_stage
from tests import fabricated
from tests.fabricated import MACHINE, StubConfig, finish, make_run, owner, put, vouch, write_project

PROJECT = Path(__file__).parents[1]
LAYERS = {
    "conv1.weight": {"weights": 500, "survivors": 90}, "conv2.weight": {"weights": 25_000, "survivors": 800},
    "fc1.weight": {"weights": 400_000, "survivors": 3000}, "fc2.weight": {"weights": 5_000, "survivors": 200},
}  # fmt: skip
EPOCH = ("epoch", "learning_rate", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
UPDATE = ("iteration", "lambda", "nonzeros", "nonzeros_asked", "primal_residual", "dual_residual")
AUDIT = {
    "claims": [
        {
            "id": "C1", "claim": "LeNet-5 <b>at</b> 20x", "metric": "accuracy", "verdict": "not reproduced",
            "scale": "full", "target": {"ratio": 20, "difference": 0.0}, "n_seeds": 2,
            "protocol": ["fabricated: mnist; last epoch"],
            "measured": [
                {"experiment": "fabricated", "ratio": 10, "compared": "pruned - dense", "why": "mean -1.000 pp",
                 "verdict": "not reproduced", "scale": "full", "n_seeds": 2},
            ],
            "beside": [
                {"experiment": "elsewhere", "ratio": 10, "compared": "pruned - dense", "why": "mean +0.250 pp",
                 "verdict": "inconclusive", "scale": "full", "n_seeds": 1},
            ],
            "evidence": ["results/fabricated/reweighted-admm-10x-s0.json"], "why": "mean -1.000 pp",
        },
        {"id": "C2", "claim": "ResNet-50", "metric": "accuracy", "verdict": "not run", "scale": None,
         "target": {"ratio": 4.24}, "n_seeds": 0, "protocol": [], "measured": [], "beside": [], "evidence": [],
         "why": "no record"},
    ],
    "choices": ["The *denominator* is ours."],
}  # fmt: skip
SENSITIVITY = {
    "experiment": "fabricated",
    "study": "sensitivity",
    "trials": [
        {"trial": {"method": "reweighted-admm", "seed": 0, "values": {"lambda": 1e-5, name: value}},
         "machine": MACHINE, "versions": {"torch": "2.0"}, "commit": "0123456789abcdef",
         "compression_ratio": 10 + i, "validation_accuracy": 0.9, "primal_residual": 0.05 * (1 + i)}
        for name, values in {"rho": (0.01, 0.02, 0.5), "relative": (True, False)}.items()
        for i, value in enumerate(values)
    ],
}  # fmt: skip
RUNTIMES = {
    network: {
        engine: {
            "bytes": size, "batch_1_threads_1": {"median_ms": ms, "q1_ms": 0.9 * ms, "q3_ms": 1.2 * ms}
        },
        "openvino": "not installed",
    }
    for network, engine, ms, size in (
        ("dense", "pytorch", 2.0, 1_700_000), ("pruned", "pytorch", 1.9, 1_700_000),
        ("compacted", "onnxruntime", 0.3, 90_000),
    )
}  # fmt: skip


def sparse_lenet5(seed: int) -> dict[str, torch.Tensor]:
    """A LeNet-5 with as many survivors as `LAYERS` says."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in SHAPES.items():
        flat = torch.zeros(int(np.prod(shape)))
        kept = torch.randperm(len(flat), generator=generator)[: LAYERS[name]["survivors"]]
        flat[kept] = torch.randn(len(kept), generator=generator)
        state[name] = flat.reshape(shape)
    return state


def write_curves(root: Path, run, stage: str) -> None:
    """Curves of five rows, named in the stage's provenance as its outputs."""
    files = {curve_file(owner(run, stage), stage): EPOCH}
    if stage == "prune":
        files[iterations_file(run)] = UPDATE
    vouched = root / provenance_folder(owner(run, stage), stage) / "vouched.json"
    provenance = json.loads(vouched.read_text())
    for file, headers in files.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="") as stream:
            rows = [[row, *(0.5 / row for _ in headers[1:])] for row in range(1, 6)]
            csv.writer(stream).writerows([headers, *rows])
        provenance["outputs"][file.as_posix()] = digest_of_file(path)
    put(vouched, provenance)


def record(root: Path, run, monkeypatch, pruned: float, **more) -> None:
    """Put a fabricated LeNet-5 with its curves into the ledger; `more` is added to its benchmark."""
    plain = fabricated.metrics_of

    def metrics_of(pruned, converged):
        metrics = plain(pruned, converged)
        metrics["benchmark"] |= {"layers": LAYERS, "runtimes": {}, **more}
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(fabricated, "metrics_of", metrics_of)
        finish(root, run, pruned=pruned)
    save_sparse(root / weights_file(run, "retrain"), sparse_lenet5(run.seed), list(SHAPES), {"run": run.name})
    vouch(root, run, "retrain")
    vouch(root, run, "evaluate")
    for stage in ("pretrain", "reference", "prune", "retrain"):
        write_curves(root, run, stage)
    ledger.write_record(root, ledger.gather(root, StubConfig(), run))


def write_published(root: Path) -> None:
    entry = {"network": "LeNet-5", "compression": 20, "work": "W", "year": 2000, "source": "S", "claim": "C1"}
    put(root / "paper" / "published.yaml", {"published": [entry]})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two seeds and a lone one at a second compression, with everything that the page can show."""
    root = tmp_path_factory.mktemp("page")
    runs = [make_run(0), make_run(1), make_run(0, 40)]
    write_project(root, runs)
    histogram = {"edges": [0.01, 0.1, 1.0, 10.0], "dense": [900, 90, 9], "pruned": [0, 60, 40]}
    with pytest.MonkeyPatch.context() as patch:
        for run, pruned in zip(runs, (0.97, 0.98, 0.95), strict=True):
            record(root, run, patch, pruned, runtimes=RUNTIMES, histogram=histogram)
    write_published(root)
    put(root / "results" / "audit.json", AUDIT)
    put(root / "results" / "fabricated-sensitivity.json", SENSITIVITY)
    return root


@pytest.fixture(scope="module")
def page(project):
    return build(project)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """One recorded run and nothing that is optional."""
    write_project(tmp_path, [make_run()])
    record(tmp_path, make_run(), monkeypatch, 0.97)
    write_published(tmp_path)
    return tmp_path


def test_sections_stand_in_their_order(page):
    titles = re.findall(r"^## (.*)$", page.markdown, re.MULTILINE)
    assert titles == [
        "Verdicts on the paper's claims", "Published and measured", "Accuracy against compression",
        "What is kept of each layer", "Residuals and nonzeros", "Training curves", "Weights before and after",
        "What is left of LeNet-5", "Sensitivity to the parameters", "Accuracy against latency and bytes",
        "What the paper leaves open, and what was chosen", "Provenance",
    ]  # fmt: skip
    assert [title.replace("&#39;", "'") for title in re.findall(r"<h2>(.*)</h2>", page.html)] == titles


def test_verdicts_come_first_with_measured_numbers_and_notes(page):
    row = "| C1 | LeNet-5 <b>at</b> 20x | at least 20x; at least +0.0 pp | **not reproduced** | full | 2 | "
    assert row + "mean -1.000 pp | [^1] |" in page.markdown
    assert "| C2 | ResNet-50 | at least 4.24x | **not run** | – | – | no record | – |" in page.markdown
    assert "| fabricated | mnist; last epoch |" in page.markdown
    beside = "| C1 | elsewhere | 10x | pruned - dense | mean +0.250 pp | inconclusive (for comparison) | full | 1 |"
    assert beside in page.markdown
    assert "The <em>denominator</em> is ours." in page.html
    assert "Verdicts: 1 not reproduced, 1 not run." in page.html
    assert "LeNet-5 &lt;b&gt;at&lt;/b&gt; 20x" in page.html


def test_every_row_has_its_delta_and_its_footnote(page):
    """Ours is 10x beside a published 20x: half, and 50 % less."""
    assert "| LeNet-5 | W (C1), 2000 | 20x | – | 10.00x | -50.0 | mnist | 2 |" in page.markdown
    measured = re.findall(r"^\| fabricated \|.*\| (\S+) \|$", page.markdown, re.MULTILINE)
    assert measured == ["[^1]", "[^2]"]
    runs = re.findall(r"^\| fabricated-reweighted-admm-(\w+)-s\d \|.*yes \| (\S+) \|$", page.markdown, re.MULTILINE)
    assert runs == [("10x", "[^1]"), ("10x", "[^1]"), ("40x", "[^2]")]
    assert "fabricated, reweighted-admm (columns: notes 1, 2)" in page.markdown
    note = re.search(r"^\[\^1\]: (.*)$", page.markdown, re.MULTILINE)[1]
    for text in (
        "10x, seeds 0, 1.",
        "digest feedfacefeed",
        "Imagined CPU",
        "PyTorch 2.0",
        "code 0123456789ab",
        "10x-s1.json",
    ):
        assert text in note
    assert page.html.count('id="note-') == 2


def test_equal_input_gives_equal_bytes_without_time_or_place(page, project):
    assert build(project) == page
    for text in (page.markdown, page.html, *page.figures.values()):
        assert not re.search(r"\b20\d\d-\d\d-\d\d|T\d\d:\d\d", text)
        assert str(project) not in text


def test_what_is_missing_is_said_in_a_line(bare):
    text = build(bare).markdown
    assert "No verdict yet: `make audit` writes `results/audit.json`." in text
    assert "Left out: no study is recorded in `results/*-sensitivity.json`." in text
    assert "Left out: no record has timings of several runtimes" in text
    assert "The records hold no sizes from before pruning." in text


def test_an_empty_ledger_is_a_page_too(tmp_path):
    write_published(tmp_path)
    page = build(tmp_path)
    assert "No run is recorded yet." in page.markdown
    assert page.figures == {}


def test_curves_of_another_run_are_left_out_and_named(bare):
    file = bare / curve_file(make_run(), "retrain")
    file.write_text(file.read_text().replace("0.5", "0.6"))
    (bare / iterations_file(make_run())).unlink()
    found = read_curves(bare, ledger.read_ledger(bare))[0]
    assert set(found.phases) == {"pretrain", "reference", "prune"}
    assert found.iterations is None and not found.complete
    text = build(bare).markdown
    assert "`curves/fabricated/reweighted-admm-10x-s0/retrain.csv`" in text
    assert "Figure 4" not in re.search(r"## Training curves\n(.*?)\n## ", text, re.DOTALL)[1]


def test_a_damaged_network_is_an_error(bare):
    found = ledger.read_ledger(bare)[0]
    (bare / found.sparse_network["file"]).write_bytes(b"z")
    with pytest.raises(ArtifactError, match="not the network"):
        build(bare)


@pytest.mark.parametrize("content", [[], {"claims": 3, "choices": []}, {"claims": [{"id": "C1"}], "choices": []}])
def test_an_audit_of_another_form_is_an_error(tmp_path, content):
    put(tmp_path / "results" / "audit.json", content)
    with pytest.raises(ArtifactError, match=r"audit\.json"):
        read_audit(tmp_path)


def test_unknown_verdicts_are_counted_last(tmp_path):
    claims = [{**AUDIT["claims"][1], "verdict": kind} for kind in ("odd", "not run", "reproduced", "reproduced")]
    put(tmp_path / "results" / "audit.json", {"claims": claims, "choices": []})
    assert tally(read_audit(tmp_path).verdicts) == "2 reproduced, 1 not run, 1 odd"


def test_a_study_without_ratios_is_an_error(bare):
    put(bare / "results" / "fabricated-sensitivity.json", {"experiment": "x", "trials": [{"trial": {}}]})
    with pytest.raises(ArtifactError, match=r"sensitivity\.json is not a study's"):
        build(bare)


def test_the_network_nearest_to_the_published_ratio_is_drawn(project):
    """All fabricated records reach 10x; a network of another kind or one that was cut is not drawn."""
    records = ledger.read_ledger(project)
    assert drawn_record(records, 20) is records[0]
    records[0].params["model"]["name"] = "resnet32"
    records[1].metrics["prune"]["converged"] = False
    assert drawn_record(records, 20) is records[2]
    assert drawn_record(records[:2], 20) is None


def test_paths_through_one_weight_of_each_layer_by_hand():
    """One 5x5 window of one pooled cell of one pooled cell: 2 x 2 outputs of conv2, 4 x 4 of conv1, one pixel each."""
    layers = {name.removesuffix(".weight"): np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    layers["conv1"][3, 0, 0, 0] = layers["conv2"][7, 3, 0, 0] = -1
    layers["fc1"][11, 7 * 16] = layers["fc2"][5, 11] = 1
    found = Connections(**layers)
    assert np.flatnonzero(found.neurons).tolist() == [11]
    assert found.pixels[:4, :4].tolist() == [[1.0] * 4] * 4
    assert found.pixels.sum() == 16
    layers["fc2"][6, 11] = 1
    assert Connections(**layers).pixels.sum() == 32


def test_a_network_of_another_shape_is_named():
    with pytest.raises(ArtifactError, match=r"conv1\.weight must have the shape"):
        connections({"conv1.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [((0.9, 110), [1, 10, 100]), ((0.01, 0.03), [0.01, 0.02]), ((5, 9), [5, 6, 7, 8, 9]), ((1, 5), [1, 2, 5])],
)
def test_ticks_are_few_and_round(ends, ticks):
    assert canvas.log_ticks(*ends) == pytest.approx(ticks)


def test_numbers_are_shortened_in_tags_and_never_in_texts():
    def draw(figure):
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1 / 3])
        axes.set_xlabel("0.00123456")

    svg = canvas.panel("k", "t", "a < b", draw).svg
    assert ">0.00123456<" in svg
    assert not re.search(r'd="[^"]*\.\d{3}', svg)
    assert '<title id="k-title">a &lt; b</title>' in svg


def test_colours_are_variables_that_both_schemes_define(page):
    for svg in re.findall(r"<svg.*?</svg>", page.html, re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}", svg.replace("#000000", ""))
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(canvas.SHADES)
    assert page.html.count("--ink:") == 2


def test_the_stage_writes_all_files_and_removes_old_figures(bare, monkeypatch, capsys):
    monkeypatch.chdir(bare)
    old = bare / "reports" / "figures" / "old.svg"
    old.parent.mkdir(parents=True)
    old.write_text("")
    page_stage.main([])
    assert not old.exists()
    assert len(list(old.parent.glob("*.svg"))) == 2
    markdown = (bare / MARKDOWN_FILE).read_text()
    links = re.findall(r"\]\(([^)#]+)[)#]", markdown)
    assert links and not [link for link in links if not (bare / link).exists()]
    assert "wrote REPORT.md and report.html" in capsys.readouterr().out
    page_stage.main(["--check"])
    for place in (MARKDOWN_FILE, PLOTS_FILE):
        text = (bare / place).read_text()
        (bare / place).write_text(text.replace("1", "2", 1))
        with pytest.raises(ArtifactError, match=f"not what the ledger gives: {place}; run `make report`"):
            page_stage.main(["--check"])
        (bare / place).write_text(text)


def test_dvcs_plots_are_columns_of_the_curves_of_recorded_runs(page, project):
    plots = {title: plot for one in yaml.safe_load(page.plots)["plots"] for title, plot in one.items()}
    residual = plots["fabricated, pruning: primal residual"]
    assert residual["x"] == "iteration"
    for title, plot in plots.items():
        for file, column in plot["y"].items():
            place = (project / PLOTS_FILE.parent / file).resolve()
            assert place.is_relative_to(project / "curves"), title
            assert not place.is_file() or column in place.read_text().splitlines()[0].split(",")
    assert any((project / PLOTS_FILE.parent / file).resolve().is_file() for file in residual["y"])


@pytest.fixture(
    scope="module",
    params=["everything", "empty", pytest.param("ledger", marks=pytest.mark.slow)],
)
def opened(request, browser, tmp_path_factory):
    """The page as a function of (width, scheme) that opens it and returns the browser."""
    root = PROJECT if request.param == "ledger" else request.getfixturevalue("project")
    if request.param == "empty":
        root = tmp_path_factory.mktemp("empty")
        write_published(root)
    file = tmp_path_factory.mktemp("html") / HTML_FILE
    file.write_text(build(root).html)

    def open_page(width=1240, scheme="light"):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(file.as_uri())
        return browser

    return open_page


def test_the_browser_reports_no_error_and_nothing_leaves_the_page(opened):
    for log in ("browser", "performance"):
        opened().get_log(log)
    driver = opened()
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)


def test_no_plot_is_empty(opened):
    """What matplotlib clips to its axes is data or grid; the grid's colour tells them apart."""
    empty, count = opened().execute_script("""
        const plots = [...document.querySelectorAll('figure svg')];
        const drawn = svg => [...svg.querySelectorAll('[clip-path]')].some(one => {
            const box = one.getBBox();
            return box.width + box.height > 0 && !one.outerHTML.includes('--rule');
        });
        return [plots.filter(svg => !drawn(svg)).map(svg => svg.textContent.slice(0, 80)), plots.length];
    """)
    assert empty == []
    assert count > 0 or "No run is recorded" in opened().page_source


@pytest.mark.parametrize("width", [390, 1240])
def test_no_two_texts_of_a_plot_overlap(opened, width):
    overlapping = opened(width).execute_script("""
        const found = [];
        for (const svg of document.querySelectorAll('figure svg')) {
            const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
            boxes.forEach(([a, one], i) => boxes.slice(i + 1).forEach(([b, two]) => {
                const across = Math.min(one.right, two.right) - Math.max(one.left, two.left);
                const down = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
                if (across > 2 && down > 4) found.push(`${a} / ${b}`);
            }));
        }
        return found;
    """)
    assert overlapping == []


@pytest.mark.parametrize("width", [320, 390, 768, 1240])
def test_nothing_scrolls_sideways_but_tables_in_their_boxes(opened, width):
    driver = opened(width)
    driver.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 1240])
def test_texts_of_plots_can_be_read(opened, width):
    sizes = opened(width).execute_script("""
        return [...document.querySelectorAll('figure svg')].flatMap(svg => {
            const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
            return [...svg.querySelectorAll('text')].map(t => scale * parseFloat(getComputedStyle(t).fontSize));
        });
    """)
    assert all(7.5 <= size <= 24 for size in sizes)


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_and_plots_follow_the_readers_scheme(opened, scheme):
    driver = opened(1240, scheme)
    ground = luminance(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert ground < 0.05 if scheme == "dark" else ground > 0.9
    inks = driver.execute_script("""
        const texts = [...document.querySelectorAll('p, th, td, a, h1, h2, figcaption, .badge')];
        const plots = [...document.querySelectorAll('svg text')];
        const inks = [...texts.map(t => getComputedStyle(t).color), ...plots.map(t => getComputedStyle(t).fill)];
        return [...new Set(inks)];
    """)
    for ink in inks:
        low, high = sorted((ground, luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, ink
