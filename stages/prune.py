"""`python -m stages.prune RUN`: run the method's pruning phase and hand over the sparse copy Z."""

from pipeline import assembly, entry, layout
from pipeline.config import Config
from pipeline.files import write_csv
from pipeline.pruning.masks import prunable_weights
from pipeline.session import Session
from pipeline.sparse import save_sparse
from pipeline.tensors import load_tensors

STAGE = "prune"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "RUN")
    config = Config(entry.root())
    run = config.pruned_run(name)
    dense = layout.weights_file(run.dense, "pretrain")
    inputs = [*(layout.data_file(run.experiment, part) for part in ("train", "validate")), dense]
    with Session(STAGE, run, config, inputs) as session:
        start, _ = load_tensors(config.root / dense)
        pruned = assembly.prune(assembly.job(session), run.method, run.ratio, start)
        weights, curve = layout.weights_file(run, STAGE), layout.curve_file(run, STAGE)
        iterations = layout.iterations_file(run)
        about = {"run": run.name, "stage": STAGE}
        save_sparse(config.root / weights, pruned.network.state_dict(), list(prunable_weights(pruned.network)), about)
        write_csv(config.root / curve, pruned.rows)
        write_csv(config.root / iterations, pruned.iterations)
        session.tracker.log_many(pruned.iterations, step_key="iteration")
        session.wrote(weights, curve, iterations)
        session.finish(pruned.figures)


if __name__ == "__main__":
    entry.run(main)
