"""What a version was made by: pipeline file, source of the own parts that it names, threads; one JSON file."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ml_core import spec as pipeline_file
from ml_core.errors import ModelRefusedError, UnknownPartError
from ml_core.parts import files_of
from ml_core.spec import PipelineSpec

FILE = "recipe.json"


class Recipe(BaseModel):
    """A pipeline as it was when a model was trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: dict[str, Any]
    parts: dict[str, str] = {}  # source by path, relative to the folder of the pipeline file
    threads: int | None = Field(default=None, ge=1, le=256, description="the last bits of sums depend on them")

    @field_validator("parts")
    @classmethod
    def _stay_inside(cls, parts: dict[str, str]) -> dict[str, str]:
        for name in parts:
            words = name.removesuffix(".py").split("/")
            if not name.endswith(".py") or not all(map(str.isidentifier, words)):  # as modules are named
                raise ValueError(f"{name!r} is no file of own parts")
        return parts

    @classmethod
    def of(cls, spec: PipelineSpec, *, threads: int | None = None) -> Self:
        """Return the recipe of ``spec`` on ``threads``; parts of installed packages are left to their versions."""
        return cls(pipeline=spec.model_dump(mode="json"), parts=_parts(spec), threads=threads)

    @classmethod
    def read(cls, data: bytes, said: str) -> Self:
        """Return the recipe in the file ``data`` of the version ``said``.

        Raises:
            ModelRefusedError: It is not understood (``unreadable``). A retry will not help.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise ModelRefusedError(f"unreadable: {FILE} of {said}: {error.errors()[0]['msg']}") from error

    def spec(self, folder: Path | None) -> PipelineSpec:
        """Return the pipeline, with its own parts from ``folder``, where they must be as they were.

        Raises:
            UnknownPartError: A file of own parts is missing in ``folder``, says something else now, or stands there
                under the name of a part that came from elsewhere.
            SpecError: The pipeline was written by a version that knew other names. A retry will not help.
        """
        spec = pipeline_file.parse(self.pipeline, folder=folder, name=FILE)
        there = _parts(spec)
        changed = sorted(name for name in {*self.parts, *there} if self.parts.get(name) != there.get(name))
        if changed:
            raise UnknownPartError(
                f"{', '.join(changed)} in {folder or 'no folder'} differ from what the model was trained with; "
                "name the folder of the original files, or run the recorded ones"
            )
        return spec

    def unpack(self, folder: Path) -> None:
        """Write the recorded parts into ``folder``: their code is as trustworthy as the model store is."""
        for name, source in self.parts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8", newline="")


def _parts(spec: PipelineSpec) -> dict[str, str]:
    return files_of((spec.model.kind, spec.train.loss or "", *spec.features.use), spec.folder)
