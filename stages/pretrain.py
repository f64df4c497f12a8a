"""`python -m stages.pretrain DENSE_RUN`: train the dense network that all runs of its seed share."""

from pipeline import assembly, entry, layout
from pipeline.config import Config
from pipeline.files import write_csv
from pipeline.session import Session
from pipeline.tensors import save_tensors

STAGE = "pretrain"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "DENSE_RUN")
    config = Config(entry.root())
    run = config.dense_run(name)
    inputs = [layout.data_file(run.experiment, part) for part in ("train", "validate")]
    with Session(STAGE, run, config, inputs) as session:
        network, rows = assembly.pretrain(assembly.job(session))
        weights, curve = layout.weights_file(run, STAGE), layout.curve_file(run, STAGE)
        save_tensors(config.root / weights, network.state_dict(), {"run": run.name, "stage": STAGE})
        write_csv(config.root / curve, rows)
        session.wrote(weights, curve)
        session.finish(assembly.last_figures(rows))


if __name__ == "__main__":
    entry.run(main)
