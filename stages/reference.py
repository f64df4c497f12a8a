"""`python -m stages.reference DENSE_RUN`: train the dense network on, as long as a pruned one is trained."""

from pipeline import assembly, entry, layout
from pipeline.config import Config
from pipeline.session import Session
from pipeline.tensors import load_tensors

STAGE = "reference"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "DENSE_RUN")
    config = Config(entry.root())
    run = config.dense_run(name)
    dense = layout.weights_file(run, "pretrain")
    inputs = [*(layout.data_file(run.experiment, part) for part in ("train", "validate")), dense]
    with Session(STAGE, run, config, inputs) as session:
        start, _ = load_tensors(config.root / dense)
        network, rows = assembly.train_reference(session.job(), start)
        session.write_dense(network)
        session.write_rows(layout.curve_file(run, STAGE), rows)
        session.finish(assembly.last_figures(rows))


if __name__ == "__main__":
    entry.run(main)
