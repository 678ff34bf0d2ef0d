"""The models of the report: one table of families, each with the space that is searched on the training part alone.

A family is a function from a trial's parameters to a learner. To measure another kind of network, add a line to
`NEURAL`.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np

from ml_core import contenders
from ml_core.contenders import Learner, Predict, last_rows
from ml_core.data_processor.dataset import Processed
from ml_core.data_processor.scaling import scale
from ml_core.evaluation.baselines import LIMIT
from ml_core.learners import network
from ml_core.prequential import OnlineNetwork, RowByRow, prequential
from ml_core.spec import PipelineSpec
from tests.reports.cells import CELLS, pipeline

Space = Mapping[str, tuple[Any, ...]]


class Trial(NamedTuple):
    """A model with its parameters; all that a process needs to try it on a cell."""

    family: str
    params: tuple[tuple[str, Any], ...] = ()
    features: str = "default"
    window: int = 1
    seed: int = 0

    @property
    def told(self) -> str:
        parts = [f"{name} {value}" for name, value in self.params]
        return ", ".join([*parts, f"features {self.features}"] + ([f"window {self.window}"] if self.window > 1 else []))


MIRROR = ("mirror 0.5",)
NEURAL: dict[str, tuple[str, int, Space]] = {  # name on the page: kind of [model], rows of a window, space
    "linear_network": (
        "linear",
        1,
        {"augment": (MIRROR, ()), "learning_rate": (1e-2,), "weight_decay": (0.5,)},
    ),
    "mlp": (
        "mlp",
        1,
        {
            "hidden": ((128,),),
            "augment": ((*MIRROR, "jitter 0.3"), MIRROR, ()),
            "dropout": (0.5,),
            "learning_rate": (3e-3, 1e-3),
            "weight_decay": (0.9,),
        },
    ),
    "lstm": (
        "lstm",
        8,
        {"width": (24,), "augment": (MIRROR,), "learning_rate": (3e-3,), "weight_decay": (0.5,)},
    ),
}
TRAINING = ("augment", "learning_rate", "weight_decay")  # of a space; the rest are parameters of the model
ONLINE: Space = {"step": (1e-4, 3e-4, 1e-3), "batch": (256,), "memory": (50_000,)}
BOOSTING: Space = {
    "num_leaves": (8, 4),
    "min_data_in_leaf": (2000,),
    "learning_rate": (0.03,),
    "lambda_l2": (1.0,),
    "feature_fraction": (0.6,),
    "bagging_fraction": (0.7,),
    "rounds": (400,),
}
RIVER: Space = {"step": (1e-3, 3e-4, 1e-4)}
RIDGE: Space = {"strength": (0.03, 0.1, 0.3), "mirror": (False, True)}
FIXED = ("momentum", "zero", "prior")
IN_RETURNS = ("ridge", "gradient_boosting", "river_online", "online_mlp", "zero", "prior", *NEURAL)
EPOCHS, WAIT, BATCH = 12, 3, 1024  # of networks: training too long costs more than any choice of size


def points(space: Space, most: int | None = None) -> Iterator[tuple[tuple[str, Any], ...]]:
    """Every point of a space, or the first ones: spaces begin with what is most likely to do well."""
    for values in islice(product(*space.values()), most):
        yield tuple(zip(space, values, strict=True))


def spec_of(cell: str, trial: Trial) -> PipelineSpec:
    """The pipeline file of a trial."""
    params = dict(trial.params)
    train: dict[str, Any] = {}
    model: dict[str, Any] = {}
    if is_neural(trial.family):
        kind = NEURAL["mlp" if trial.family == "online_mlp" else trial.family][0]
        train = {name: params[name] for name in TRAINING}
        model = {"kind": kind, "params": {k: v for k, v in params.items() if k not in (*TRAINING, *ONLINE)}}
    elif trial.family == "gradient_boosting":
        model = {"kind": "boosting", "params": params}
    return pipeline(
        CELLS[cell],
        trial.features,
        features={"window": trial.window},
        model=model,
        train={
            "weights": "none",
            "validation": CELLS[cell].validation,
            "epochs": EPOCHS,
            "patience": WAIT,
            "batch_size": BATCH,
            **train,
        },
    )


def is_neural(family: str) -> bool:
    return family in NEURAL or family == "online_mlp"


def learner(cell: str, trial: Trial) -> Learner:
    """The learner of a trial."""
    params, spec = dict(trial.params), spec_of(cell, trial)
    if trial.family in NEURAL or trial.family == "gradient_boosting":
        return contenders.model(spec, seed=trial.seed)
    made: dict[str, Callable[[], Learner]] = {
        "ridge": lambda: contenders.ridge(params["strength"], mirror=params["mirror"]),
        "river_online": lambda: river(params["step"]),
        "online_mlp": lambda: online(spec, params, trial.seed),
        "momentum": lambda: contenders.momentum(past_return(trial.features)),
        "zero": lambda: contenders.zero,
        "prior": lambda: contenders.prior,
    }
    return made[trial.family]()


def past_return(features: str) -> str:
    """The feature that momentum follows."""
    return "return:10s" if features == "wide" else "return:5s"


def online(spec: PipelineSpec, params: Mapping[str, Any], seed: int) -> Learner:
    """An MLP that is trained as any other and then goes on learning: its validation rows first, which it has not
    learned from, and then what matures among the rows it scores.
    """

    def learn(processed: Processed) -> Predict:
        def predict(chosen_I: np.ndarray) -> np.ndarray:
            task = contenders.task(processed, spec, seed=seed)
            how = {"learning_rate": params["step"], "memory": params["memory"], "known_I": processed.train_I}
            model = OnlineNetwork(network.trained(task)[0], task, **how)
            later_I = processed.validation_I
            for start in range(0, len(later_I), params["batch"]):
                model.learn(later_I[start : start + params["batch"]])
            return as_asked(model, processed, chosen_I, params["batch"])

        return predict

    return learn


def river(step: float) -> Learner:
    """A line of river that learns row by row: the training rows first, then each scored row once it has matured."""
    from river import linear_model, optim

    def learn(processed: Processed) -> Predict:
        data, scale_ = processed.dataset, float(np.sqrt(processed.prior[0][1])) or 1.0
        names = processed.plan.names
        line = linear_model.LinearRegression(optimizer=optim.SGD(step), intercept_lr=step / 10, l2=1e-4)
        z_NF = scaled(processed, np.arange(len(data.ts_ns_N)))

        def row(z_F: np.ndarray) -> dict[str, float]:
            return dict(zip(names, z_F.tolist(), strict=True))

        model = RowByRow(
            z_NF,
            data.return_NH[:, 0] / scale_,
            say=lambda z_F: line.predict_one(row(z_F)) * scale_,
            hear=lambda z_F, y: line.learn_one(row(z_F), y),
        )
        model.learn(np.concatenate([processed.train_I, processed.validation_I]))
        return lambda chosen_I: as_asked(model, processed, chosen_I, 1)

    return learn


def as_asked(model: Any, processed: Processed, chosen_I: np.ndarray, batch: int) -> np.ndarray:
    """What an online model says of rows, in the order in which they were asked for."""
    data = processed.dataset
    order_I, score_IH = prequential(model, chosen_I, data.ts_ns_N, data.end_ns_NH.max(axis=1), batch=batch)
    place_N = np.full(len(data.ts_ns_N), -1)
    place_N[order_I] = np.arange(len(order_I))
    return score_IH[place_N[chosen_I]]


def scaled(processed: Processed, chosen_I: np.ndarray) -> np.ndarray:
    return np.clip(scale(last_rows(processed, chosen_I), processed.scaler), -LIMIT, LIMIT)
