"""Write the page of all results, REPORT.md and report.html, from the ledger and its curves, or check REPORT.md.

python -m stages.page [--check]
"""

from argparse import ArgumentParser

from pipeline import entry
from pipeline.errors import ArtifactError
from pipeline.files import write_bytes
from pipeline.report.page import FIGURES_FOLDER, HTML_FILE, MARKDOWN_FILE, build


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m stages.page")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if REPORT.md is out of date")
    options = parser.parse_args(arguments)
    root = entry.root()
    page = build(root)
    if options.check:
        there = (root / MARKDOWN_FILE).read_text() if (root / MARKDOWN_FILE).is_file() else ""
        if there != page.markdown:
            raise ArtifactError(f"{MARKDOWN_FILE} is not what the ledger gives; run `make report`")
        return
    for stale in set((root / FIGURES_FOLDER).glob("*.svg")) - {root / place for place in page.figures}:
        stale.unlink()
    for place, text in {**page.figures, MARKDOWN_FILE: page.markdown, HTML_FILE: page.html}.items():
        write_bytes(root / place, text.encode())
    print(f"wrote {MARKDOWN_FILE} and {HTML_FILE} ({len(page.html.encode()) / 1e6:.1f} MB)")


if __name__ == "__main__":
    entry.run(main)
