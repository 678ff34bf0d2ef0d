import pytest
import torch
from torch import nn

from ml_core.errors import InvalidSettingsError
from ml_core.trainer.device import choose_device, repeatable
from ml_core.trainer.optimisers import make_optimizer, state_of, take_up
from ml_core.trainer.schedules import rate_factor

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def factors(schedule: str, steps: int = 100, **how) -> list[float]:
    return [rate_factor(schedule, step, steps, **how) for step in range(steps)]


def test_the_cosine_falls_from_one_to_nothing():
    found = factors("cosine")
    assert found[0] == 1
    assert found == sorted(found, reverse=True)
    assert rate_factor("cosine", 100, 100) == pytest.approx(0)


def test_one_cycle_rises_for_a_third_and_falls_below_its_start():
    found = factors("one_cycle")
    peak = found.index(max(found))
    assert (peak, found[peak]) == (30, 1)
    assert found[:31] == sorted(found[:31])
    assert found[30:] == sorted(found[30:], reverse=True)
    assert found[-1] < found[0] == pytest.approx(1 / 25)


def test_warm_up_lets_the_rate_grow_in_a_line():
    assert factors("constant", 5, warm_up_steps=4) == [0.25, 0.5, 0.75, 1, 1]
    assert factors("cosine", warm_up_steps=10)[10:] == factors("cosine")[10:]


def test_a_plateau_halves_the_rate_after_each_epoch_that_is_no_better():
    losses = [1.0, 0.9, 0.95, 0.85, 0.85]
    assert [rate_factor("plateau", 0, 9, validation_losses=losses[:n]) for n in range(6)] == [1, 1, 1, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_optimiser_goes_on_with_what_another_remembers(name):
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [make_optimizer(name, m, learning_rate=0.1, weight_decay=0.1, momentum=0.9) for m in models]
    x = torch.randn(4, 3)

    def step(which: int) -> None:
        optimizers[which].zero_grad()
        models[which](x).square().sum().backward()
        optimizers[which].step()

    for _ in range(3):
        step(0)
    models[1].load_state_dict(models[0].state_dict())
    take_up(optimizers[1], models[1], state_of(optimizers[0], models[0]))
    for which in (0, 1):
        step(which)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_what_an_optimiser_of_another_kind_left_is_passed_over():
    model = nn.Linear(3, 2)
    optimizer = make_optimizer("sgd", model, learning_rate=0.1, weight_decay=0, momentum=0.9)
    take_up(optimizer, model, {"AdamW.exp_avg.weight": torch.ones(2, 3), "SGD.momentum_buffer.gone": torch.ones(1)})
    assert state_of(optimizer, model) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
def test_a_device_that_is_not_here_is_an_error_of_the_setup():
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InvalidSettingsError, match="no CUDA device; write 'auto' or 'cpu'"):
        choose_device("cuda")


@NO_CUDA
def test_training_on_cuda_repeats_itself():
    device = choose_device("auto")
    assert device.type == "cuda"

    def weights() -> torch.Tensor:
        with repeatable(device, seed=3, threads=1):
            model = nn.Sequential(nn.Linear(22, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 3)).to(device)
            optimizer = make_optimizer("adamw", model, learning_rate=0.01, weight_decay=0, momentum=0)
            for _ in range(20):
                optimizer.zero_grad()
                model(torch.randn(256, 22, device=device)).square().mean().backward()
                optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).cpu()

    assert torch.equal(weights(), weights())
