"""What a data set says of itself: ``manifest.json`` beside its Parquet files."""

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_io.data_fetcher.port import BAR
from ml_core.errors import InputError

FILE = "manifest.json"
PREFIX = "dataset:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_Count = Annotated[int, Field(ge=0)]


class DatasetId(NamedTuple):
    """Name and version of a data set; no version: the newest."""

    name: str
    version: int | None

    def __str__(self) -> str:
        """Return ``name@version``."""
        return self.name if self.version is None else f"{self.name}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the id of ``ticks@3`` or ``ticks``, also behind ``dataset:``.

        Raises:
            InputError: The text is none. A retry will not help.

        >>> DatasetId.parse("dataset:ibm@2")
        DatasetId(name='ibm', version=2)
        """
        name, at, version = text.removeprefix(PREFIX).partition("@")
        is_version = re.fullmatch(r"[1-9]\d{0,8}", version) if at else True
        if not _NAME.fullmatch(name) or not is_version:
            raise InputError(f"{text!r} names no data set; write NAME or NAME@VERSION, such as ibm@1")
        return cls(name, int(version) if at else None)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetFile(_Part):
    """One Parquet file of a data set."""

    name: str = Field(pattern=r"^part-\d{5}\.parquet$")
    rows: _Count
    size: _Count  # bytes


class TransformNote(_Part):
    """The user's function that the rows went through."""

    part: str
    code_hash: str


class Manifest(_Part):
    """A data set; equal ``content_hash``: equal ticks or bars of each symbol, in equal order."""

    format: Literal[1] = 1
    name: str
    version: int = Field(ge=1)
    created: datetime
    content_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    source: str
    ts_source: str
    kinds: tuple[str, ...]
    columns: dict[str, str]  # dtype of each, in order
    rows: _Count
    symbols: dict[str, _Count]  # rows of each
    first_ts_ns: int
    last_ts_ns: int
    transform: TransformNote | None = None
    left_out: dict[str, _Count] = Field(default_factory=dict, description="what of the source is not in it, by reason")
    files: tuple[DatasetFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if not self.rows == sum(file.rows for file in self.files) == sum(self.symbols.values()):
            raise ValueError("the numbers of rows do not add up")
        return self

    @property
    def id(self) -> DatasetId:
        """Name and version."""
        return DatasetId(self.name, self.version)

    @property
    def holds_bars(self) -> bool:
        """Whether it holds bars instead of ticks."""
        return self.kinds == (BAR,)


def save(manifest: Manifest, folder: Path) -> None:
    """Write the manifest into ``folder``."""
    (folder / FILE).write_text(manifest.model_dump_json(indent=1) + os.linesep, encoding="utf-8")


def load(folder: Path, wanted: DatasetId) -> Manifest:
    """Return the manifest in ``folder`` once what it says of its files is so.

    Raises:
        InputError: The data set is damaged; the message tells what is wrong. A retry will not help.
    """
    try:
        manifest = Manifest.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise damaged(wanted, f"{folder / FILE}: {error}") from error
    if manifest.id != wanted:
        raise damaged(wanted, f"{folder / FILE} is that of {manifest.id}")
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            raise damaged(wanted, f"{path} is not there")
        if path.stat().st_size != file.size:
            raise damaged(wanted, f"{path} has {path.stat().st_size} bytes instead of {file.size}")
    return manifest


def damaged(wanted: DatasetId, why: str) -> InputError:
    """Return the error of a data set that is not what was written."""
    return InputError(f"the data set {wanted} is damaged: {why}; delete that version and import it again")
