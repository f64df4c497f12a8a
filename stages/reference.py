"""`python -m stages.reference DENSE_RUN`: train the dense network on, as long as a pruned one is trained."""

from pipeline import assembly, entry, layout
from pipeline.config import Config
from pipeline.files import write_csv
from pipeline.session import Session
from pipeline.tensors import load_tensors, save_tensors

STAGE = "reference"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "DENSE_RUN")
    config = Config(entry.root())
    run = config.dense_run(name)
    dense = layout.weights_file(run, "pretrain")
    inputs = [*(layout.data_file(run.experiment, part) for part in ("train", "validate")), dense]
    with Session(STAGE, run, config, inputs) as session:
        start, _ = load_tensors(config.root / dense)
        network, rows = assembly.train_reference(assembly.job(session), start)
        weights, curve = layout.weights_file(run, STAGE), layout.curve_file(run, STAGE)
        save_tensors(config.root / weights, network.state_dict(), {"run": run.name, "stage": STAGE})
        write_csv(config.root / curve, rows)
        session.wrote(weights, curve)
        session.finish(assembly.last_figures(rows))


if __name__ == "__main__":
    entry.run(main)
