"""From the ``[model]`` part of a pipeline file to a network: find the class, check its parameters, build it."""

import inspect
import json
import typing
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ml_core.errors import SpecError, UnknownPartError, nearest
from ml_core.model.heads import Quantiles
from ml_core.parts import find_part, is_part
from ml_core.spec import PipelineSpec

KINDS = {
    "linear": "ml_core.model.linear:Linear",
    "mlp": "ml_core.model.mlp:MLP",
    "lstm": "ml_core.model.recurrent:LSTM",
    "gru": "ml_core.model.recurrent:GRU",
    "tcn": "ml_core.model.tcn:TCN",
}
OTHER_KINDS = ("boosting",)  # no networks: they have a learner of their own
GIVEN = ("features", "outputs", "window")  # these come from the rest of the pipeline file


def build(spec: PipelineSpec, *, features: int, outputs: int, seed: int) -> nn.Module:
    """Return the network that ``spec.model`` asks for, with seeded weights; the global random state stays as it is.

    Where ``spec.model.quantiles`` are asked for, what makes them of its outputs stands on it.

    A constructor takes ``(features, outputs, *, ...)``; one that has a parameter ``window`` is given T as well.

    Raises:
        UnknownPartError: No such model, or its class is no ``nn.Module``. A retry will not help.
        SpecError: A parameter is unknown, missing or of the wrong type, or the network does not return (B, outputs) for
            rows (B, T, features). A retry will not help.
    """
    part = model_class(spec)
    arguments: dict[str, Any] = check_params(part, spec.model.params)
    if "window" in inspect.signature(part).parameters:
        arguments["window"] = spec.features.window
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = part(features, outputs, **arguments)
            model.eval()
            with torch.no_grad():
                shape = tuple(model(torch.zeros(2, spec.features.window, features)).shape)
            model.train()
        except Exception as error:  # a user's own model may fail in any way
            raise SpecError(
                f"model.kind: {spec.model.kind!r} cannot be built or called: {type(error).__name__}: {error}"
            ) from error
    if shape != (2, outputs):
        raise SpecError(
            f"model.kind: {spec.model.kind!r} returns shape {shape} for 2 rows, it must return (2, {outputs})"
        )
    return Quantiles(model, spec.model.quantiles) if spec.model.quantiles else model


def model_class(spec: PipelineSpec) -> type[nn.Module]:
    """Return the class behind ``spec.model.kind``: one of ``KINDS`` or an own ``module:Class``.

    Raises:
        UnknownPartError: As ``build``.
    """
    kind = spec.model.kind
    if kind in KINDS:
        part = find_part(KINDS[kind], None, key="model.kind")
    elif is_part(kind):
        part = find_part(kind, spec.folder, key="model.kind")
    else:
        raise UnknownPartError(
            f"model.kind: {kind!r} is not known{nearest(kind, (*KINDS, *OTHER_KINDS))}; "
            "an own model is written module:Class"
        )
    if not issubclass(part, nn.Module):
        raise UnknownPartError(f"model.kind: {kind!r} is no torch.nn.Module")
    return part


def check_params(part: type, params: dict[str, Any]) -> dict[str, Any]:
    """Return ``params`` in the types that the constructor of ``part`` declares, such as a tuple for a TOML list.

    Raises:
        SpecError: As ``build``.
    """
    signature = inspect.signature(part)
    try:
        hints = typing.get_type_hints(inspect.getattr_static(part, "__init__"))
    except Exception as error:  # a user's own annotations may name anything
        raise SpecError(f"model.kind: the annotations of {part.__name__} cannot be read: {error}") from error
    own = {name: parameter for name, parameter in signature.parameters.items() if name not in GIVEN}
    keywords = {
        name
        for name, parameter in own.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())
    checked = {}
    for name, value in params.items():
        if name in GIVEN or (name not in keywords and not takes_any):
            hint = nearest(name, keywords) if keywords else f"; {part.__name__} takes none"
            raise SpecError(f"model.params.{name}: unknown parameter{hint}")
        checked[name] = _typed(name, value, hints.get(name, Any))
    missing = [name for name in keywords if own[name].default is inspect.Parameter.empty and name not in params]
    if missing:
        raise SpecError(f"model.params: {part.__name__} needs {', '.join(sorted(missing))}")
    return checked


def _typed(name: str, value: object, hint: Any) -> Any:
    try:
        # as JSON, in which a list may stand for a tuple while a text never stands for a number
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SpecError(f"model.params.{name}: {value!r} does not fit {type_name(hint)}: {reason}") from error


def type_name(hint: Any) -> str:
    """Return a readable name of a type annotation.

    >>> type_name(int), type_name(tuple[int, ...])
    ('int', 'tuple[int, ...]')
    """
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
