"""Write the page of all results from the ledger and its curves: REPORT.md, report.html, and DVC's list of plots.

With `--check` nothing is written: REPORT.md and the list must be what the ledger gives.

python -m stages.page [--check]
"""

from argparse import ArgumentParser
from pathlib import Path

from pipeline import entry
from pipeline.errors import ArtifactError
from pipeline.files import write_bytes
from pipeline.report.dvc_plots import PLOTS_FILE
from pipeline.report.page import FIGURES_FOLDER, HTML_FILE, MARKDOWN_FILE, build


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m stages.page")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    root = entry.root()
    page = build(root)
    texts = {MARKDOWN_FILE: page.markdown, PLOTS_FILE: page.plots}
    if options.check:
        old = [str(place) for place, text in texts.items() if not same(root / place, text)]
        if old:
            raise ArtifactError(f"not what the ledger gives: {', '.join(old)}; run `make report`")
        return
    for stale in set((root / FIGURES_FOLDER).glob("*.svg")) - {root / place for place in page.figures}:
        stale.unlink()
    for place, text in {**page.figures, **texts, HTML_FILE: page.html}.items():
        write_bytes(root / place, text.encode())
    print(f"wrote {MARKDOWN_FILE} and {HTML_FILE} ({len(page.html.encode()) / 1e6:.1f} MB)")


def same(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text() == text


if __name__ == "__main__":
    entry.run(main)
