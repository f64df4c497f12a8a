"""`python -m stages.plots [REVISION...]`: DVC's plots as a page that loads nothing, dvc_plots/index.html.

DVC's own page asks the network for Vega; here it stands in the page. Revisions are compared with one another.
"""

import subprocess
import sys

import vl_convert

from pipeline import entry
from pipeline.errors import PipelineError
from pipeline.files import write_bytes

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">{{refresh_tag}}
<title>Curves of the runs</title>
<script>{vega}</script>
</head>
<body>{{plot_divs}}</body>
</html>
"""


def main(arguments: list[str]) -> None:
    folder = entry.root() / "dvc_plots"
    template, page = folder / "template.html", folder / "index.html"
    page.unlink(missing_ok=True)
    write_bytes(template, PAGE.format(vega=vl_convert.javascript_bundle()).encode())
    command = ["diff", *arguments] if arguments else ["show"]
    dvc = [sys.executable, "-m", "dvc", "plots", *command, "--html-template", str(template), "-o", str(folder)]
    if subprocess.run(dvc).returncode or not page.is_file():
        raise PipelineError("DVC made no page of the plots; see its message above")


if __name__ == "__main__":
    entry.run(main)
