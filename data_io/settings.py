"""Settings that every process of tickwise shares, read from ``TICKWISE_*`` variables."""

import os
import re
from pathlib import Path
from typing import Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from ml_core.errors import InvalidSettingsError, nearest

PREFIX = "TICKWISE_"


class CommonSettings(BaseSettings):
    """Where Kafka, the model store and the job store are."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", populate_by_name=True)

    kafka: str = Field(default="127.0.0.1:9092", description="bootstrap servers, comma separated")
    home: Path = Field(default=Path(".tickwise"), description="folder for what has no store of its own")
    pipelines: Path = Field(default=Path("pipelines"), description="a pipeline file, or a folder of them")
    mlflow_tracking_uri: str | None = Field(
        default=None, validation_alias=AliasChoices(PREFIX + "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_URI")
    )
    archive: Path | None = Field(
        default=None, description="folder of archived ticks and rows: `tickwise archive run` writes it, jobs read it"
    )
    jobs_url: SecretStr | None = Field(default=None, description="SQLAlchemy URL of the job store")

    @property
    def tracking_uri(self) -> str:
        """The MLflow tracking URI; by default a SQLite store under ``home``."""
        return self.mlflow_tracking_uri or f"sqlite:///{(self.home / 'mlflow.db').absolute()}"

    @property
    def job_store_url(self) -> str:
        """The SQLAlchemy URL of the job store; by default SQLite under ``home``. May hold a password."""
        return self.jobs_url.get_secret_value() if self.jobs_url else f"sqlite:///{(self.home / 'jobs.db').absolute()}"

    @classmethod
    def read(cls, **given: object) -> Self:
        """Return the settings of the environment, ``given`` ones first.

        Raises:
            InvalidSettingsError: A value is out of range, or no JSON where it has to be. The message names the
                variable, never its value.
        """
        try:
            return cls(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]  # checked by pydantic
        except ValidationError as error:
            lines = (_explain(detail) for detail in error.errors(include_url=False, include_input=False))
            raise InvalidSettingsError("; ".join(lines)) from None
        except SettingsError as error:  # of a list or a table; its cause holds the value
            field = re.search(r'field "(\w+)"', str(error))
            name = PREFIX + field[1].upper() if field else "a setting"
            raise InvalidSettingsError(f'{name}: the value is no JSON; a list is written as ["a"]') from None


def _explain(detail: ErrorDetails) -> str:
    """Return the variable and what is wrong with it; a rule between two variables names them itself."""
    place = ".".join(map(str, detail["loc"])).upper()
    message = detail["msg"].removeprefix("Value error, ")
    return f"{place if place.startswith(PREFIX) else PREFIX + place}: {message}" if place else message


def check_names(*classes: type[CommonSettings]) -> None:
    """Refuse ``TICKWISE_*`` variables that none of ``classes`` knows: a misspelt one would be ignored silently.

    Raises:
        InvalidSettingsError: With the nearest valid name.
    """
    known = {PREFIX + name.upper() for cls in classes for name in cls.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and not name.startswith(PREFIX + "TEST_") and name not in known:
            raise InvalidSettingsError(f"unknown variable {name}{nearest(name, known)}")
