"""`python -m stages.prune RUN`: run the method's pruning phase and hand over the sparse copy Z."""

from pipeline import assembly, entry, layout
from pipeline.config import Config
from pipeline.files import read_json
from pipeline.session import Session
from pipeline.tensors import load_tensors

STAGE = "prune"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "RUN")
    config = Config(entry.root())
    run = config.pruned_run(name)
    dense, after = layout.weights_file(run.dense, "pretrain"), config.after(run)
    inputs = [*(layout.data_file(run.experiment, part) for part in ("train", "validate")), dense, after]
    with Session(STAGE, run, config, inputs) as session:
        start, _ = load_tensors(config.root / dense)
        layers = read_json(config.root / after).get("layers")
        pruned = assembly.prune(session.job(), run.method, run.ratio, start, layers)
        session.write_sparse(pruned.network)
        session.write_rows(layout.curve_file(run, STAGE), pruned.rows)
        session.write_rows(layout.iterations_file(run), pruned.iterations)
        session.tracker.log_many(pruned.iterations, step_key="iteration")
        session.finish(pruned.figures)


if __name__ == "__main__":
    entry.run(main)
