"""What the density benchmark trains: data, losses, sizes; and a name for every training run."""

from typing import Any, NamedTuple

from numpyro.infer import ELBO, Trace_ELBO

from benchmarks.density.models import PLANES, Task, digits, plane
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail

#: Tails that are cut short: estimates have less noise, and are those of a bound.
SHORT_TAIL, MIDDLE_TAIL = ReciprocalTail(knee=4, decay=0.0), ReciprocalTail(knee=11, decay=0.0)
#: Two blocks or four, 2.5 in expectation.
FEW_BLOCKS = GeometricTail(0.75, max_level=2)

#: Draws that are always made by the losses whose tails are not cut, by expected draws.
FIRST_DRAWS = {"sumo": {5: 1, 15: 10, 50: 45}, "multilevel": {5: 1, 15: 3, 50: 11}}

QUICK_ARMS = ("iwelbo", "multilevel")


class Arm(NamedTuple):
    """One way to train.

    :param title: the name of the loss in tables.
    :param max_gradient_norm: the norm at which gradients are clipped before Adam's steps; None for
        :func:`~numpyro_sumo.averaged_adam`, which does not clip.
    :param guide_rate: the guide's learning rate divided by the model's.
    :param averaged: whether to judge the average of the parameters over the last steps;
        ``averaged_adam`` ends at an average of its own.
    """

    title: str
    loss: ELBO
    max_gradient_norm: float | None = None
    guide_rate: float = 1.0
    averaged: bool = False

    def config(self) -> dict[str, Any]:
        """The arm as plain values, with the expected draws of each datum.

        ``longest`` is the number of draws of the bound that the loss estimates without bias, None
        for log p(x) itself; ``baseline_draws`` are the draws for a control variate, not included
        in ``draws``.
        """
        values, loss = self._asdict(), self.loss
        if isinstance(loss, Trace_ELBO):
            num = loss.num_particles
            bound = {"loss": f"Trace_ELBO({num})", "draws": float(num), "longest": 1}
            return values | bound | {"baseline_draws": 0}
        return values | {
            "loss": repr(loss),
            "draws": loss.mean_draws,
            "longest": _longest(loss),
            "baseline_draws": round(loss.draws_per_step - loss.mean_draws),
        }


def _longest(loss: Any) -> int | None:
    time = loss.stopping_time
    if time is None:
        return loss.num_particles
    return loss.max_draws if time.is_cut_short else None


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
    """The losses, each with about that many expected draws of each datum."""
    tail = SHORT_TAIL if draws == 5 else MIDDLE_TAIL
    first = {name: by_draws[draws] for name, by_draws in FIRST_DRAWS.items()}
    cut_sumo = SUMO(round(draws - tail.mean), stopping_time=tail, rotations=8)
    cut_multilevel = MultilevelSUMO(2 * draws // 5, stopping_time=FEW_BLOCKS)
    return {
        "elbo": Arm("ELBO", Trace_ELBO(draws)),
        "iwelbo": Arm("IWELBO", IWELBO(draws)),
        "sumo": Arm("SUMO", SUMO(first["sumo"])),
        "sumo_cut": Arm("SUMO, tail cut", cut_sumo),
        "multilevel": Arm("multilevel SUMO", MultilevelSUMO(first["multilevel"])),
        "multilevel_cut": Arm("multilevel SUMO, tail cut", cut_multilevel),
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
    return {
        "digits": Plan(digits(), every, 40, 25, 5e-3, 5_000, 200),
        **{name: Plan(plane(name), every, 25, 25, 3e-3, 2_000, 200) for name in PLANES},
    }
