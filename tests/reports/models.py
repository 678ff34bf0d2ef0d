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


NEURAL: dict[str, tuple[str, int, Space]] = {  # name on the page: kind of [model], rows of a window, space
    "linear_network": ("mlp", 1, {"hidden": ((),), "learning_rate": (3e-3, 1e-2), "weight_decay": (0.5,)}),
    "mlp": (
        "mlp",
        1,
        {
            "hidden": ((128,), (32,), (64, 64)),
            "dropout": (0.5, 0.3),
            "learning_rate": (1e-3, 3e-3),
            "weight_decay": (0.9,),
        },
    ),
    "lstm": ("lstm", 8, {"width": (24,), "learning_rate": (1e-3, 3e-3), "weight_decay": (0.5,)}),
}
TRAINING = ("learning_rate", "weight_decay")  # of a space; the rest are parameters of the model
ONLINE: Space = {"step": (1e-4, 1e-3), "batch": (64, 256), "memory": (20_000,)}
BOOSTING: Space = {
    "num_leaves": (8, 4),
    "min_data_in_leaf": (2000, 300),
    "learning_rate": (0.03,),
    "lambda_l2": (100.0, 1.0),
}
RIVER: Space = {"step": (1e-2, 3e-3, 1e-3, 3e-2)}
RIDGE: Space = {"strength": (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)}
FIXED = ("momentum", "zero", "prior")
IN_RETURNS = ("ridge", "gradient_boosting", "river_online", "online_mlp", "zero", "prior", *NEURAL)
ROUNDS, PATIENCE = 400, 30  # of boosting
EPOCHS, WAIT, BATCH = 12, 3, 1024  # of networks: training too long costs more than any choice of size


def points(space: Space, most: int | None = None) -> Iterator[tuple[tuple[str, Any], ...]]:
    """Every point of a space, or the first ones: spaces begin with what is most likely to do well."""
    for values in islice(product(*space.values()), most):
        yield tuple(zip(space, values, strict=True))


def spec_of(cell: str, trial: Trial) -> PipelineSpec:
    """The pipeline file of a trial."""
    params = dict(trial.params)
    kind = NEURAL["mlp" if trial.family == "online_mlp" else trial.family][0] if is_neural(trial.family) else "mlp"
    model = {name: value for name, value in params.items() if name not in (*TRAINING, *ONLINE)}
    train = {name: params[name] for name in TRAINING if name in params and is_neural(trial.family)}
    return pipeline(
        CELLS[cell],
        trial.features,
        features={"window": trial.window},
        model={"kind": kind, "params": model if is_neural(trial.family) else {}},
        train={"weights": "none", "epochs": EPOCHS, "patience": WAIT, "batch_size": BATCH, **train},
    )


def is_neural(family: str) -> bool:
    return family in NEURAL or family == "online_mlp"


def learner(cell: str, trial: Trial) -> Learner:
    """The learner of a trial."""
    params, spec = dict(trial.params), spec_of(cell, trial)
    if trial.family in NEURAL:
        return contenders.network(spec, seed=trial.seed)
    made: dict[str, Callable[[], Learner]] = {
        "ridge": lambda: contenders.ridge(params["strength"]),
        "gradient_boosting": lambda: boosting(params, trial.seed),
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


def boosting(params: Mapping[str, Any], seed: int) -> Learner:
    """LightGBM on scaled rows, stopped by the validation rows."""
    import lightgbm

    def learn(processed: Processed) -> Predict:
        data, scale_ = processed.dataset, float(np.sqrt(processed.prior[0][1])) or 1.0

        def part(chosen_I: np.ndarray) -> Any:
            return lightgbm.Dataset(
                scaled(processed, chosen_I), data.return_NH[chosen_I, 0] / scale_, weight=data.weight_N[chosen_I]
            )

        given = {
            "objective": "l2", "num_threads": 1, "verbosity": -1, "seed": seed, "deterministic": True,
            "force_row_wise": True, "feature_fraction": 0.6, "bagging_fraction": 0.7, "bagging_freq": 1, **params,
        }  # fmt: skip
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        valid = part(processed.validation_I)
        trees = lightgbm.train(given, part(processed.train_I), ROUNDS, valid_sets=[valid], callbacks=[stop])
        return lambda chosen_I: (trees.predict(scaled(processed, chosen_I), num_threads=1) * scale_)[:, None]

    return learn


def online(spec: PipelineSpec, params: Mapping[str, Any], seed: int) -> Learner:
    """An MLP that is trained as any other and then goes on learning from what matures among the rows it scores."""

    def learn(processed: Processed) -> Predict:
        def predict(chosen_I: np.ndarray) -> np.ndarray:
            graph, _ = contenders.learn_network(processed, spec, seed=seed)
            how = {"learning_rate": params["step"], "memory": params["memory"]}
            model = OnlineNetwork(graph, processed, spec, **how, seed=seed)
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
