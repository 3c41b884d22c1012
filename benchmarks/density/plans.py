"""What the density benchmark trains: data, losses, sizes; and a name for every training run."""

from functools import partial
from typing import Any, NamedTuple

from numpyro.infer import ELBO, Trace_ELBO

from benchmarks.density.models import PLANES, Task, digits, plane
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail

#: Short tails, because the noise of longer ones costs training more than the bias of short ones.
SHORT_TAIL, MIDDLE_TAIL = ReciprocalTail(knee=4, decay=0.0), ReciprocalTail(knee=11, decay=0.0)
#: Two blocks or four, 2.5 in expectation.
FEW_BLOCKS = GeometricTail(0.75, max_level=2)

QUICK_ARMS = ("iwelbo", "multilevel")

#: Losses that run on the plane's data sets with 5 draws only: with more, the digits show enough.
ONLY_FEW_DRAWS = ("sumo_variance", "multilevel_variance")


class Arm(NamedTuple):
    """One way to train.

    :param title: the name of the loss in tables.
    :param max_gradient_norm: the norm at which gradients are clipped.
    :param guide_rate: the guide's learning rate divided by the model's.
    :param averaged: whether to judge the average of the parameters over the last steps.
    """

    title: str
    loss: ELBO
    max_gradient_norm: float = 30.0
    guide_rate: float = 1.0
    averaged: bool = True

    def config(self) -> dict[str, Any]:
        """The arm as plain values, with the expected draws of each datum.

        ``longest`` is the number of draws of the bound that the loss estimates without bias;
        ``baseline_draws`` are the draws for a control variate, not included in ``draws``.
        """
        values, loss = self._asdict(), self.loss
        if isinstance(loss, Trace_ELBO):
            num = loss.num_particles
            bound = {"loss": f"Trace_ELBO({num})", "draws": float(num), "longest": 1}
            return values | bound | {"baseline_draws": 0}
        tail = 0 if loss.stopping_time is None else loss.stopping_time.cap
        multilevel = isinstance(loss, MultilevelSUMO)
        return values | {
            "loss": repr(loss),
            "draws": loss.mean_draws,
            "longest": loss.num_particles * 2**tail if multilevel else loss.num_particles + tail,
            "baseline_draws": round(loss.draws_per_step - loss.mean_draws),
        }


class Plan(NamedTuple):
    """How the models of one data set are trained and judged.

    :param arms: by expected draws of each datum (baseline draws excluded) and by name.
    :param judged_draws: draws of each test point for the bound.
    :param judged_particles: particles of MultilevelSUMO for the unbiased test estimates.
    """

    task: Task
    arms: dict[int, dict[str, Arm]]
    epochs: int
    batch_size: int
    learning_rate: float
    judged_draws: int
    judged_particles: int

    @property
    def batches(self) -> int:
        """The number of steps of an epoch."""
        return -(-len(self.task.data.train) // self.batch_size)

    @property
    def sizes(self) -> list[int]:
        """The number of training, validation and test points."""
        return [len(part) for part in self.task.data]

    def config(self) -> dict[str, Any]:
        """The plan as plain values."""
        values = {
            key: value for key, value in self._asdict().items() if key not in ("task", "arms")
        }
        arms = {
            str(draws): {name: arm.config() for name, arm in by_name.items()}
            for draws, by_name in self.arms.items()
        }
        return values | {"network": self.task.network, "sizes": self.sizes, "arms": arms}


class Cell(NamedTuple):
    """The name of one training run: plan, expected draws, arm and seed."""

    plan: str
    draws: int
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.plan}-{self.draws}-{self.arm}-{self.seed}"


def arms(draws: int) -> dict[str, Arm]:
    """The losses, each with that many expected draws of each datum."""
    tail = SHORT_TAIL if draws == 5 else MIDDLE_TAIL
    sumo = partial(SUMO, round(draws - tail.mean), stopping_time=tail, rotations=8)
    multilevel = partial(MultilevelSUMO, 2 * draws // 5, stopping_time=FEW_BLOCKS)
    return {
        "elbo": Arm("ELBO", Trace_ELBO(draws)),
        "iwelbo": Arm("IWELBO", IWELBO(draws)),
        "sumo": Arm("SUMO", sumo()),
        "sumo_variance": Arm("SUMO, guide by variance", sumo(guide_objective="variance")),
        "multilevel": Arm("multilevel SUMO", multilevel()),
        "multilevel_variance": Arm(
            "multilevel SUMO, guide by variance", multilevel(guide_objective="variance")
        ),
    }


def plans(quick: bool) -> dict[str, Plan]:
    """The plan of each data set, by name."""
    if quick:
        few = {5: {name: arm for name, arm in arms(5).items() if name in QUICK_ARMS}}
        return {
            "digits": Plan(digits(), few, 3, 64, 3e-3, 500, 16),
            "moons": Plan(plane("moons"), few, 3, 100, 3e-3, 500, 16),
        }
    every = {draws: arms(draws) for draws in (5, 15, 50)}
    in_plane = {
        draws: {
            name: arm for name, arm in by_name.items() if draws == 5 or name not in ONLY_FEW_DRAWS
        }
        for draws, by_name in every.items()
    }
    return {
        "digits": Plan(digits(), every, 40, 25, 5e-3, 5_000, 200),
        **{name: Plan(plane(name), in_plane, 25, 25, 3e-3, 2_000, 200) for name in PLANES},
    }
