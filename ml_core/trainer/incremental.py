"""Training that goes on from given weights and stays near them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ml_core.trainer.checkpoint import Checkpoints
from ml_core.trainer.loop import NO_HOOKS, Hooks, Settings, TrainingBatches, TrainReport, train
from ml_core.trainer.losses import Loss
from ml_core.types import Batch

LEARNING_RATE_SHARE = 0.1  # of a training from scratch: new rows are few and shall not undo what many taught


def anchor(model: nn.Module, strength: float) -> Callable[[], Tensor]:
    """Return a penalty, 0 now: ``strength`` times the squared distance of all weights from where they are now.

    Source: the L2-SP penalty of Li, Grandvalet and Davoine, 2018, "Explicit inductive bias for transfer learning".
    """
    start = [parameter.detach().clone() for parameter in model.parameters()]

    def penalty() -> Tensor:
        moved = [((now - before) ** 2).sum() for now, before in zip(model.parameters(), start, strict=True)]
        return strength * torch.stack(moved).sum()

    return penalty


def go_on(
    model: nn.Module,
    batches: TrainingBatches,
    validation: Iterable[Batch],
    *,
    loss: Loss,
    settings: Settings,
    seed: int,
    hooks: Hooks = NO_HOOKS,
    checkpoints: Checkpoints | None = None,
    optimizer_state: Mapping[str, Tensor] | None = None,
) -> TrainReport:
    """Fit ``model`` in place, on from the weights it has: a smaller learning rate, no weight decay, an anchor.

    Where no epoch does better on ``validation`` than the start, the model ends as it came (best epoch 0).
    Arguments are those of ``train``.

    Raises:
        InputError: As ``train``.
        TrainingCancelledError: As ``train``.
    """
    # decay would pull the weights to 0, the anchor pulls them to the start
    gentle = replace(settings, learning_rate=settings.learning_rate * LEARNING_RATE_SHARE, weight_decay=0.0)
    if settings.anchor:
        hooks = replace(hooks, penalty=anchor(model, settings.anchor))
    return train(
        model,
        batches,
        validation,
        loss=loss,
        settings=gentle,
        seed=seed,
        hooks=hooks,
        checkpoints=checkpoints,
        optimizer_state=optimizer_state,
    )
