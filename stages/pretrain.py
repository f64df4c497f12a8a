"""`python -m stages.pretrain DENSE_RUN`: train the dense network that all runs of its seed share."""

from pipeline import assembly, entry, layout
from pipeline.config import Config
from pipeline.models.published_weights import load_published
from pipeline.session import Session

STAGE = "pretrain"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "DENSE_RUN")
    config = Config(entry.root())
    run = config.dense_run(name)
    inputs = [layout.data_file(run.experiment, part) for part in ("train", "validate")]
    with Session(STAGE, run, config, inputs) as session:
        job, block = session.job(), session.experiment.pretrain
        start = load_published(block.start, job.network()) if block.start else None
        network, rows = assembly.pretrain(job, start)
        session.write_dense(network)
        session.write_rows(layout.curve_file(run, STAGE), rows)
        session.finish(assembly.last_figures(rows))


if __name__ == "__main__":
    entry.run(main)
