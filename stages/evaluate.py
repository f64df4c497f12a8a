"""`python -m stages.evaluate RUN`: read the test set once, for the pruned network and its dense references."""

from pipeline import entry, layout
from pipeline.config import Config
from pipeline.data.batches import in_order
from pipeline.evaluation.accuracy import device_for, evaluate
from pipeline.models import build
from pipeline.session import Session
from pipeline.settings import prepare_torch
from pipeline.sparse import load_sparse
from pipeline.tensors import load_tensors

STAGE = "evaluate"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "RUN")
    config = Config(entry.root())
    run = config.pruned_run(name)
    dense = {stage: layout.weights_file(run.dense, stage) for stage in ("pretrain", "reference")}
    sparse, data = layout.weights_file(run, "retrain"), layout.data_file(run.experiment, "test")
    with Session(STAGE, run, config, [data, *dense.values(), sparse]) as session:
        states = {stage: load_tensors(config.root / path)[0] for stage, path in dense.items()}
        states["retrain"] = load_sparse(config.root / sparse)[0]
        training, size = session.experiment.training, session.experiment.evaluate.batch_size
        prepare_torch(training.threads)
        test = session.pictures("test")
        accuracy = {}
        for stage, state in states.items():
            network = build(session.experiment.model, test.classes, run.seed, state)
            network.to(device_for(training.accelerator))
            batches = in_order(test, size, training.crop, training.workers)
            accuracy[stage] = evaluate(network, batches)["accuracy"]
        best = max(accuracy["pretrain"], accuracy["reference"])
        session.finish(
            {
                "dataset": test.dataset,
                "dataset_digest": test.digest,
                "test_images": len(test),
                "dense_accuracy": accuracy["pretrain"],
                "reference_accuracy": accuracy["reference"],
                "dense_best_accuracy": best,
                "pruned_accuracy": accuracy["retrain"],
                "accuracy_difference": accuracy["retrain"] - best,
            }
        )


if __name__ == "__main__":
    entry.run(main)
