"""`python -m stages.retrain RUN`: train the survivors with the mask fixed."""

from pipeline import assembly, entry, layout
from pipeline.config import Config
from pipeline.session import Session
from pipeline.sparse import load_sparse
from pipeline.tensors import load_tensors

STAGE = "retrain"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "RUN")
    config = Config(entry.root())
    run = config.pruned_run(name)
    dense, sparse = layout.weights_file(run.dense, "pretrain"), layout.weights_file(run, "prune")
    inputs = [*(layout.data_file(run.experiment, part) for part in ("train", "validate")), dense, sparse]
    with Session(STAGE, run, config, inputs) as session:
        teacher, start = load_tensors(config.root / dense)[0], load_sparse(config.root / sparse)[0]
        network, rows, survivors = assembly.retrain(session.job(), run.method, start, teacher)
        session.write_sparse(network)
        session.write_rows(layout.curve_file(run, STAGE), rows)
        session.finish({**assembly.last_figures(rows), **survivors})


if __name__ == "__main__":
    entry.run(main)
