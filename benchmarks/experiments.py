"""The experiments: what is compared, and the goals."""

from dataclasses import dataclass
from typing import Literal

from analysis.landscape.inputs import BATCH_SIZE as BATCH_SIZE_OF_LANDSCAPES
from benchmarks.measure import BATCH_SIZE, Contestant, Task, cores


@dataclass(frozen=True)
class Goal:
    """A goal for one contestant (the subject), relative to the best of some others (its peers).

    "≥ ×" and "≤ ×": at least or at most `bound` times the peer's value; "≤ +": at most `bound` seconds more.
    """

    subject: str
    against: tuple[str, ...]
    sign: Literal["≥ ×", "≤ ×", "≤ +"]
    bound: float

    def __str__(self) -> str:
        return f"{self.sign[0]} {self.text(self.bound, digits='g')}"

    def text(self, comparison: float, digits: str = ".2f") -> str:
        """The text of a result of `compare`, with its unit."""
        return f"{comparison:{digits}} ×" if "×" in self.sign else f"{comparison:+{digits}} s"

    def compare(self, subject: float, peer: float) -> float:
        """The ratio, or the difference, of the values of the subject and a peer."""
        return subject / peer if "×" in self.sign else subject - peer

    def is_reached(self, comparison: float) -> bool:
        """Whether a result of `compare` meets the goal."""
        return comparison >= self.bound if "≥" in self.sign else comparison <= self.bound


@dataclass(frozen=True)
class Experiment:
    """Contestants that are measured in turn, and the goals that compare them.

    row: its key on the command line; unit: of the values; piece: the unit of work that times refer to;
    about: how each number is measured.
    """

    row: str
    title: str
    unit: str
    piece: str
    about: str
    contestants: tuple[Contestant, ...]
    goals: tuple[Goal, ...]


@dataclass(frozen=True)
class Effort:
    """The amount of work per measurement.

    gradients: per network; virtual: gradients on the virtual clock; test_images: per network, for each point of a
    landscape; points: of the plain loop's landscape; grid_size: of the suite's landscape; samples: for the grid search.
    """

    gradients: dict[str, int]
    virtual: int
    test_images: dict[str, int]
    points: int
    grid_size: int
    samples: int


FULL = Effort({"LeNet5": 600, "CNN1": 100}, 6000, {"LeNet5": 10_000, "CNN1": 2000}, 2, 4, 4000)
QUICK = Effort({"LeNet5": 200, "CNN1": 20}, 1000, {"LeNet5": 500, "CNN1": 250}, 1, 2, 250)

WORKERS = (("LeNet5", 2), ("LeNet5", 5), ("CNN1", 2))
LOADER_WORKERS = (0, 2)
# Networks whose passes take nearly all of the time: no multiple of a peer can be reached, but a part of their limit.
LIMITED = ("CNN1",)
OF_LIMIT = 0.9
UNTESTED = ("--stop", "first")  # the end of the first worker ends the run: the model is not tested meanwhile
PASSES_ALONE = "passes alone"
PASSES = (
    "Passes alone: forward and backward over the same mini-batch again, in channels-last memory, in one process per "
    "worker."
)
SECONDS_BEYOND_IMPORTS = {2: 1, 10: 2, 40: 6}  # workers → goal for the start-up time


def all_experiments(data_dir: str, effort: Effort) -> list[Experiment]:
    """Every experiment, in the order of the table of goals."""
    tasks = [Task(data_dir, network, workers, effort.gradients[network]) for network, workers in WORKERS]
    return [
        *(non_distributed(Task(data_dir, network, 1, gradients)) for network, gradients in effort.gradients.items()),
        *map(asynchronous, tasks),
        *map(synchronous, tasks),
        virtual_clock(data_dir, effort.virtual),
        start_up(data_dir),
        memory(Task(data_dir, workers=10, amount=effort.gradients["LeNet5"])),
        *(landscape(Task(data_dir, network, 1, images), effort) for network, images in effort.test_images.items()),
        cross_validation(Task(data_dir, amount=effort.samples)),
    ]


def non_distributed(task: Task) -> Experiment:
    subject = Contestant(
        "nonDistributed.py", "suite.gradients", task, {"script": "nonDistributed.py", "per_gradient": BATCH_SIZE}
    )
    limits = [
        Contestant(f"bare loop, threads: {threads}", "limit.bare_loop", task, {"threads": threads})
        for threads in sorted({1, cores()})
    ]
    loops = [
        Contestant(f"DataLoader, loader workers: {count}", "data_loader.training_loop", task, {"loader_workers": count})
        for count in LOADER_WORKERS
    ]
    return Experiment(
        "nondistributed",
        f"nonDistributed.py, {task.network}",
        unit="samples/s",
        piece="gradient",
        about="nonDistributed.py: from the timestamps in its log. Bare loop: zero_grad, forward, backward and step "
        "over standardised tensors in memory, indexed by torch.randperm, with torch.optim.SGD; no logging. "
        "DataLoader: torchvision's FashionMNIST with ToTensor and Normalize, shuffled; torch's default number of "
        f"threads. {PASSES}",
        contestants=(subject, *limits, *passes(task, per_piece=BATCH_SIZE), *loops),
        goals=(
            Goal(subject.name, names(limits), "≥ ×", 0.95),
            *goals_of(task, subject, Goal(subject.name, names(loops), "≥ ×", 2)),
        ),
    )


def asynchronous(task: Task) -> Experiment:
    subject = Contestant("dist_async.py", "suite.gradients", task, {"script": "dist_async.py", "flags": UNTESTED})
    limit = Contestant("Hogwild", "hogwild.gradients", task)
    ray = Contestant("Ray, asynchronous parameter server", "ray_server.asynchronous", task, needs="ray")
    return Experiment(
        "async",
        f"dist_async.py, {task.network}, {task.workers} workers",
        unit="gradients/s",
        piece="gradient",
        about="Gradients of all workers together. dist_async.py: over RPC, with --split_dataset --stop first, from the "
        "timestamps in its log. Hogwild: PyTorch's example mnist_hogwild, one process per worker, over tensors in "
        "memory. Ray: the page “Parameter Server” in its documentation, over tensors in memory, without its "
        f"evaluations. {PASSES}",
        contestants=(subject, limit, *passes(task), ray),
        goals=goals_of(
            task,
            subject,
            Goal(subject.name, (limit.name,), "≥ ×", 0.9),
            Goal(subject.name, (ray.name,), "≥ ×", 2.5),
        ),
    )


def synchronous(task: Task) -> Experiment:
    subject = Contestant("dist_sync.py", "suite.gradients", task, {"script": "dist_sync.py"})
    ddp = Contestant("DistributedDataParallel", "ddp.gradients", task)
    ray = Contestant("Ray, synchronous parameter server", "ray_server.synchronous", task, needs="ray")
    return Experiment(
        "sync",
        f"dist_sync.py, {task.network}, {task.workers} workers",
        unit="gradients/s",
        piece="gradient",
        about="Gradients of all workers together, one per worker in each update. dist_sync.py: over RPC, with "
        "--split_dataset, from the timestamps in its log. DistributedDataParallel: PyTorch's tutorial, on Gloo, one "
        f"process per worker, over tensors in memory. Ray: the synchronous loop on the same page. {PASSES}",
        contestants=(subject, ddp, *passes(task), ray),
        goals=goals_of(
            task,
            subject,
            Goal(subject.name, (ddp.name,), "≥ ×", 1.2),
            Goal(subject.name, (ray.name,), "≥ ×", 2),
        ),
    )


def virtual_clock(data_dir: str, gradients: int) -> Experiment:
    options = {"script": "dist_async.py", "flags": ["--clock", "virtual", *UNTESTED]}
    subjects = [
        Contestant(f"{workers} workers", "suite.gradients", Task(data_dir, "LeNet5", workers, gradients), options)
        for workers in (2, 10, 1000)
    ]
    limit = Contestant("Hogwild, 2 workers", "hogwild.gradients", Task(data_dir, "LeNet5", 2, gradients))
    return Experiment(
        "virtual",
        "dist_async.py --clock virtual, LeNet5",
        unit="gradients/s",
        piece="gradient",
        about="Gradients per second of real time. dist_async.py --clock virtual: all gradients of a run, with "
        "--split_dataset --stop first, from the creation of the log until it has the last one. Hogwild: as above.",
        contestants=(*subjects, limit),
        goals=tuple(Goal(subject.name, (limit.name,), "≥ ×", 1.2) for subject in subjects),
    )


def start_up(data_dir: str) -> Experiment:
    options = {"script": "dist_async.py"}
    goals = {f"{workers + 1} processes": seconds for workers, seconds in SECONDS_BEYOND_IMPORTS.items()}
    subjects = [
        Contestant(name, "startup.first_update", Task(data_dir, workers=workers, amount=1800), options)
        for name, workers in zip(goals, SECONDS_BEYOND_IMPORTS, strict=True)
    ]
    imports = Contestant("import torch, torchvision", "startup.import_torch", Task(data_dir))
    return Experiment(
        "startup",
        "Start of dist_async.py",
        unit="s",
        piece="start",
        about="From launching the command until the first update is in the log: imports, reading the data, starting "
        "processes, rendezvous, first gradient. Compared with a process that only imports torch and torchvision.",
        contestants=(*subjects, imports),
        goals=tuple(Goal(name, (imports.name,), "≤ +", seconds) for name, seconds in goals.items()),
    )


def memory(task: Task) -> Experiment:
    def contestant(name: str, script: str, *flags: str) -> Contestant:
        return Contestant(name, "memory.peak", task, {"script": script, "flags": flags})

    subject = contestant("11 processes", "dist_async.py")
    same = contestant("dist_async.py --clock virtual", "dist_async.py", "--clock", "virtual")
    control = contestant("nonDistributed.py, one process", "nonDistributed.py")
    return Experiment(
        "memory",
        "Memory of dist_async.py",
        unit="MiB",
        piece="run",
        about="The largest sum of the proportional set sizes (PSS) of all processes of a run, from start to end.",
        contestants=(subject, same, control),
        goals=(
            Goal(subject.name, (same.name,), "≤ ×", 3),
            Goal(subject.name, (control.name,), "≤ ×", 3),
        ),
    )


def landscape(task: Task, effort: Effort) -> Experiment:
    subject = Contestant("loss_landscape.py", "landscape.survey", task, {"grid_size": effort.grid_size})
    loops = [
        Contestant(
            f"plain loop, loader workers: {count}",
            "landscape.plain_loop",
            task,
            {"loader_workers": count, "points": effort.points},
        )
        for count in LOADER_WORKERS
    ]
    options = {"batch_size": BATCH_SIZE_OF_LANDSCAPES, "points": effort.points}
    limit = Contestant(PASSES_ALONE, "limit.forward_passes", task, options)
    return Experiment(
        "landscape",
        f"loss_landscape.py, {task.network}, {task.amount:,} test images",
        unit="points/s",
        piece="point",
        about=f"loss_landscape.py: only its survey, called as in the script, of a grid with {effort.grid_size} "
        "points per side and of the saved rows. Plain loop: for each point load_state_dict, then a DataLoader with "
        "ToTensor and Normalize, with the script's batch size and torch's default number of threads; points per "
        f"measurement: {effort.points}. Forward passes alone: over the same images again, in channels-last memory.",
        contestants=(subject, limit, *loops),
        goals=goals_of(task, subject, Goal(subject.name, names(loops), "≥ ×", 10)),
    )


def cross_validation(task: Task) -> Experiment:
    subject = Contestant("kfold.py", "cross_validation.suite_search", task)
    loops = [
        Contestant(
            f"plain loop, loader workers: {count}", "cross_validation.plain_loop", task, {"loader_workers": count}
        )
        for count in LOADER_WORKERS
    ]
    return Experiment(
        "kfold",
        f"kfold.py, {task.network}, {task.amount:,} samples",
        unit="configurations/h",
        piece="configuration",
        about="Five folds; 2, 4 and 6 epochs. kfold.py: only its search, over two learning rates, called as in the "
        "script; one training run covers all three numbers of epochs. Plain loop: KFold, SubsetRandomSampler and a "
        "DataLoader with ToTensor and Normalize, each configuration trained separately; measured over one epoch and "
        "one evaluation of one fold, and scaled.",
        contestants=(subject, *loops),
        goals=(Goal(subject.name, names(loops), "≥ ×", 8),),
    )


def passes(task: Task, **options: object) -> list[Contestant]:
    """The limit of a network whose passes take nearly all of the time."""
    return [Contestant(PASSES_ALONE, "limit.passes", task, options)] if task.network in LIMITED else []


def goals_of(task: Task, subject: Contestant, *goals: Goal) -> tuple[Goal, ...]:
    """These goals, or for a network that has a limit, a part of that."""
    return (Goal(subject.name, (PASSES_ALONE,), "≥ ×", OF_LIMIT),) if task.network in LIMITED else goals


def names(contestants: list[Contestant]) -> tuple[str, ...]:
    return tuple(contestant.name for contestant in contestants)
