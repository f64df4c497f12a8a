"""The loop: figures by hand, determinism, and going on bit for bit after a kill."""

import io
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline import assembly
from pipeline.config import Config
from pipeline.data.batches import PictureSet
from pipeline.errors import ArtifactError, ConfigError, TrainingError
from pipeline.files import write_csv
from pipeline.method_params import Distillation
from pipeline.models import build
from pipeline.pruning.masks import prunable_weights
from pipeline.resume import Scratch
from pipeline.training.engine import Engine
from pipeline.training.loop import Hook
from pipeline.training.objective import CrossEntropy
from pipeline.training.objective import Distillation as Distilled
from pipeline.training.schedule import Schedule
from tests.test_config import ROOT


def test_the_schedule_by_hand():
    schedule = Schedule(peak=2.0, warmup=0.2, hold=0.5, final=0.1)
    assert schedule.at(0) == 0
    assert schedule.at(0.1) == pytest.approx(1.0)
    assert schedule.at(0.3) == 2.0
    assert schedule.at(0.75) == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert schedule.at(1 - 1e-9) == pytest.approx(0.2)


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)]])
    found = CrossEntropy()(logits, torch.tensor([1]), logits, torch.tensor([0]))
    assert found.item() == pytest.approx(-math.log(0.75))


def test_distillation_by_hand():
    """Teacher (1/4, 3/4) and student (1/2, 1/2) at T = 1: KL = log 2 - H; at weight 0.5."""
    answers = torch.tensor([[9.0, 9.0], [0.0, math.log(3.0)]])
    objective = Distilled(nn.Identity(), weight=0.5, temperature=1.0, answers=answers)
    found = objective(torch.zeros(1, 2), torch.tensor([0]), torch.zeros(1), torch.tensor([1]))
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert found.item() == pytest.approx(0.5 * math.log(2) + 0.5 * divergence)


def test_distillation_is_exact_in_autocast():
    """A student as sure as its teacher: the divergence is zero, not what rounding to bf16 leaves."""
    answers = torch.zeros(4, 10)
    answers[:, 3] = 17.3
    with torch.autocast("cpu", torch.bfloat16):
        found = Distilled(nn.Identity(), 1.0, 2.0, answers.bfloat16().float())(
            answers.bfloat16(), torch.full((4,), 3), torch.zeros(4), torch.arange(4)
        )
    assert found.item() == pytest.approx(0.0, abs=1e-7)


def test_distillation_asks_the_teacher_where_pictures_change():
    teacher = nn.Linear(2, 2)
    images, labels = torch.randn(3, 2), torch.tensor([0, 1, 1])
    with torch.no_grad():
        answers = teacher(images)
    asked = Distilled(teacher, 0.7, 2.0)(answers * 0.5, labels, images, torch.arange(3))
    kept = Distilled(teacher, 0.7, 2.0, answers)(answers * 0.5, labels, images, torch.arange(3))
    assert asked.item() == pytest.approx(kept.item())


class Memory:
    """A checkpoint in memory that can stop the training after so many epochs, as a kill would."""

    def __init__(self, stop_after: int | None = None, state: dict | None = None) -> None:
        self.state, self.stop_after = state, stop_after

    def load(self):
        return self.state

    def save(self, state):
        stream = io.BytesIO()
        torch.save(state, stream)
        stream.seek(0)
        self.state = torch.load(stream, weights_only=True)
        if len(state["rows"]) == self.stop_after:
            raise KeyboardInterrupt


def pictures(count: int = 192, seed: int = 0) -> PictureSet:
    """Toy digits: class c has a bright bar in row 2c."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=random)
    images = torch.randint(0, 60, (count, 1, 28, 28), dtype=torch.uint8, generator=random)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label + 3] = 200
    return PictureSet(images, labels, torch.tensor([0.13]), torch.tensor([0.31]), 10, "toy", "")


def experiment(**changes):
    """The quickstart's parameters, shortened."""
    real = Config(ROOT).experiment("quickstart")
    training = real.training.model_copy(update={"batch_size": 32, "threads": 1, **changes})
    admm = real.prune.reweighted_admm.model_copy(update={"epochs": 4, "update_every": 2})
    return real.model_copy(
        update={
            "training": training,
            "extra_epochs": 7,
            "pretrain": real.pretrain.model_copy(update={"epochs": 3}),
            "prune": real.prune.model_copy(update={"reweighted_admm": admm}),
        }
    )


def job(stage: str, checkpoint: Memory | None = None, **changes) -> assembly.Job:
    return assembly.Job(stage, experiment(**changes), 0, pictures(), pictures(64, 1), checkpoint or Memory())


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def dense(precision: str = "fp32"):
    return assembly.pretrain(job("pretrain", precision=precision))[0].state_dict()


STAGES = {
    "pretrain": lambda job: assembly.pretrain(job)[0],
    "reference": lambda job: assembly.train_reference(job, dense())[0],
    "prune": lambda job: assembly.prune(job, "reweighted-admm", 20, dense()).network,
    "retrain": lambda job: assembly.retrain(job, "reweighted-admm", sparse(), dense())[0],
}


def sparse():
    return assembly.prune(job("prune"), "reweighted-admm", 20, dense()).network.state_dict()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_trainings_agree_bit_for_bit(precision):
    one, other = (assembly.pretrain(job("pretrain", precision=precision))[0] for _ in range(2))
    assert same(one, other)


@pytest.mark.parametrize(("stage", "stop"), list(itertools.product(STAGES, (1, 2))))
def test_a_stopped_training_goes_on_bit_for_bit(stage, stop):
    whole = STAGES[stage](job(stage))
    stopped = Memory(stop_after=stop)
    with pytest.raises(KeyboardInterrupt):
        STAGES[stage](job(stage, stopped))
    torch.manual_seed(99)  # whatever happens between two sessions must not matter
    assert same(whole, STAGES[stage](job(stage, Memory(state=stopped.state))))


class Kept(Hook):
    """A hook that keeps the state it gets."""

    state = None

    def load_state_dict(self, state):
        self.state = state


@pytest.mark.filterwarnings("ignore:.*meta parameter")
def test_a_hook_gets_its_state_on_the_networks_device():
    """The network is on `meta` here, as it could be on the second of two GPUs; checkpoints come from the CPU."""
    work, hook = job("pretrain"), Kept()
    whole = Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        work = replace(work, checkpoint=whole)
        work.phase(work.network(), work.experiment.pretrain, Schedule(1e-3, 0, 0.5, 0.1), 1, CrossEntropy(), [hook])
    state = {"rounds": 3, "Z": [torch.ones(2)], "masks": {"w": torch.ones(2) > 0}, "iterations": [{"iteration": 1}]}
    work = replace(work, checkpoint=Memory(state={**whole.state, "hooks": [state]}))
    network = work.network().to("meta")
    work.phase(network, work.experiment.pretrain, Schedule(1e-3, 0, 0.5, 0.1), 1, CrossEntropy(), [hook])
    assert hook.state["Z"][0].device.type == hook.state["masks"]["w"].device.type == "meta"
    assert (hook.state["rounds"], hook.state["iterations"]) == (3, [{"iteration": 1}])


def test_a_checkpoint_comes_back_on_the_cpu(tmp_path, monkeypatch):
    asked = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **options: asked.append(options) or load(*given, **options))
    with Scratch(tmp_path, "prune", {}) as scratch:
        scratch.save({"Z": [torch.ones(2)]})
        assert torch.equal(scratch.load()["Z"][0], torch.ones(2))
    assert asked == [{"map_location": "cpu", "weights_only": True}]


def test_the_curves_go_on_too():
    whole = assembly.prune(job("prune"), "reweighted-admm", 20, dense())
    stopped = Memory(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        assembly.prune(job("prune", stopped), "reweighted-admm", 20, dense())
    again = assembly.prune(job("prune", Memory(state=stopped.state)), "reweighted-admm", 20, dense())
    assert again.rows == whole.rows
    assert again.iterations == whole.iterations
    assert again.figures == whole.figures


def test_another_seed_is_another_network():
    first, other = (build(experiment().model, 10, seed) for seed in (0, 1))
    assert not same(first, other)


def test_a_pruned_weight_stays_exactly_zero():
    start = sparse()
    network, rows, survivors = assembly.retrain(job("retrain"), "reweighted-admm", start, dense())
    for name, weight in prunable_weights(network).items():
        pruned = start[name] == 0
        assert (weight[pruned] == 0).all()
        assert not torch.signbit(weight[pruned]).any()
        assert not torch.equal(weight, start[name])
    assert len(rows) == 3
    assert survivors["survivors"] <= 430_500 // 20


def test_pruning_and_retraining_together_last_as_long_as_the_reference():
    start = dense()
    pruned = assembly.prune(job("prune"), "reweighted-admm", 20, start)
    _, retrained, _ = assembly.retrain(job("retrain"), "reweighted-admm", pruned.network.state_dict(), start)
    _, reference = assembly.train_reference(job("reference"), start)
    assert len(pruned.rows) + len(retrained) == len(reference) == 7


def test_a_loss_that_is_not_finite_stops_with_epoch_step_and_rate():
    class Poisoned(CrossEntropy):
        calls = 0

        def __call__(self, *arguments):
            Poisoned.calls += 1
            return super().__call__(*arguments) * (float("nan") if Poisoned.calls == 9 else 1)

    checkpoint = Memory()
    work = job("pretrain", checkpoint)
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 2, step 9, at learning rate .*lower learning"):
        work.phase(work.network(), work.experiment.pretrain, Schedule(1e-3, 0, 0.5, 0.1), 3, Poisoned())
    assert len(checkpoint.state["rows"]) == 1
    assert all(torch.isfinite(value).all() for value in checkpoint.state["network"].values())


class Fails(CrossEntropy):
    """An objective that raises in the first step."""

    def __init__(self, error: RuntimeError) -> None:
        self.error = error

    def __call__(self, *arguments):
        raise self.error


class Shared(Engine):
    """Two processes, as far as the loop can tell."""

    ranks = 2


@pytest.mark.parametrize("engine", [Engine(), Shared()])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_too_little_memory_says_what_to_lower(engine, error):
    work = replace(job("pretrain"), engine=engine)
    fails = Fails(error)
    with pytest.raises(TrainingError, match="^pretrain: out of memory; lower training.batch_size or raise training.ac"):
        work.phase(work.network(), work.experiment.pretrain, Schedule(1e-3, 0, 0.5, 0.1), 1, fails)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:9"), TrainingError),
        (torch.distributed.DistBackendError("a time-out"), TrainingError),
    ],
)
def test_only_errors_between_processes_are_told_as_such(error, kind):
    work = replace(job("pretrain"), engine=Shared())
    with pytest.raises((RuntimeError, TrainingError)) as raised:
        work.phase(work.network(), work.experiment.pretrain, Schedule(1e-3, 0, 0.5, 0.1), 1, Fails(error))
    assert raised.type is kind
    assert raised.value is error or "one of the 2 processes ended, or cannot be reached" in str(raised.value)


def test_weights_of_another_network_are_refused():
    state = dense()
    state["fc2.weight"] = torch.zeros(10, 400)
    with pytest.raises(ArtifactError, match=r"not those of lenet5: fc2.weight should have shape \(10, 500\)"):
        job("prune").network(state)


def test_lenet5_has_the_published_size():
    network = job("pretrain").network()
    assert sum(weight.numel() for weight in prunable_weights(network).values()) == 430_500
    assert sum(parameter.numel() for parameter in network.parameters()) == 431_080


def plain(classes: int) -> nn.Module:
    """A network of the right answers' shape without a weight to prune."""
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, classes)), nn.Flatten(), nn.BatchNorm1d(classes))


def flat(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, classes, 28), nn.AdaptiveAvgPool2d(1))


def tied(classes: int) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 4, 28), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten())
    network[2].weight = network[1].weight
    return nn.Sequential(network, nn.Linear(4, classes))


def frozen(classes: int) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 4, 28), nn.Flatten(), nn.Linear(4, classes))
    network[0].requires_grad_(False)
    return network


def forgetful(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, classes))


def with_network(work: assembly.Job, builder: str) -> assembly.Job:
    model = work.experiment.model.model_copy(update={"name": f"tests.test_training:{builder}", "options": {}})
    return replace(work, experiment=work.experiment.model_copy(update={"model": model}))


def test_a_network_that_draws_random_numbers_repeats_them_also_after_a_stop():
    def rows(checkpoint=None):
        return assembly.pretrain(with_network(job("pretrain", checkpoint), "forgetful"))[1]

    whole, stopped = rows(), Memory(stop_after=1)
    assert rows() == whole
    assert whole[0]["train_loss"] != whole[1]["train_loss"]
    with pytest.raises(KeyboardInterrupt):
        rows(stopped)
    torch.rand(7)  # another process, another state of torch's own generator
    assert rows(Memory(state=stopped.state)) == whole


@pytest.mark.parametrize(
    ("ratio", "every", "said"),
    [
        (1e6, 2, "a ratio of 1e.06 leaves none of 430,500 weights; ask for at most 430,500"),
        (20, 25, "prune.reweighted-admm.update_every must be at most 24, the steps of 4 epochs, got 25"),
    ],
)
def test_a_pruning_that_cannot_be_is_refused_before_it_starts(ratio, every, said):
    work = job("prune")
    block = work.experiment.prune.reweighted_admm.model_copy(update={"update_every": every})
    prune = work.experiment.prune.model_copy(update={"reweighted_admm": block})
    work = replace(work, experiment=work.experiment.model_copy(update={"prune": prune}))
    with pytest.raises(ConfigError, match=said):
        assembly.prune(work, "reweighted-admm", ratio, dense())


def test_epochs_without_an_update_leave_gaps_in_the_curves(tmp_path):
    rows = [{"epoch": 1, "nonzeros": 9}, {"epoch": 2, "nonzeros": 5, "lambda": 0.5}]
    write_csv(tmp_path / "rows.csv", rows)
    assert (tmp_path / "rows.csv").read_text() == "epoch,nonzeros,lambda\n1,9,\n2,5,0.5\n"


@pytest.mark.parametrize(
    ("builder", "said"),
    [
        ("tied", "tied has 0.1.weight and 0.2.weight, which are one tensor"),
        ("frozen", r"frozen does not train 0.weight \(requires_grad is off\)"),
        ("plain", "test_training:plain has nothing to prune"),
        ("flat", r"logits of shape \(1, 10\) for a picture of shape \(1, 1, 28, 28\), got \(1, 10, 1, 1\)"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused(builder, said):
    with pytest.raises(ConfigError, match=said):
        with_network(job("pretrain"), builder).network()


def test_no_distillation_is_plain_cross_entropy():
    work = job("retrain")
    assert isinstance(work.objective(Distillation(weight=0.0, temperature=2.0), work.network()), CrossEntropy)


def test_a_batch_in_parts_is_the_whole_batch():
    whole, parts = (
        assembly.pretrain(job("pretrain", precision="fp64", accumulate=number))[0].state_dict() for number in (1, 4)
    )
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-9
    assert any(not torch.equal(whole[name], parts[name]) for name in whole)
