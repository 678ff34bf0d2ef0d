"""Settings of the HTTP server."""

import ipaddress
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from data_io.settings import CommonSettings


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class ServerSettings(CommonSettings):
    """Where the server listens, whom it answers, and what it holds at most."""

    host: str = Field(default="127.0.0.1", description="address to listen on; another than loopback needs api_token")
    port: int = Field(default=8000, ge=0, le=65535, description="0: any free port")
    api_token: SecretStr | None = Field(default=None, description="bearer token that every request must carry")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(), description="origins of browser applications that may call, comma separated"
    )
    max_body_bytes: int = Field(default=1_000_000, ge=1024, le=100_000_000, description="larger requests get 413")
    event_streams: int = Field(default=64, ge=1, le=10_000, description="job event streams open at once; more get 503")
    event_poll_s: float = Field(default=0.5, gt=0, le=10, description="pause between two looks at a watched job")
    heartbeat_s: float = Field(
        default=15.0, gt=0, le=60, description="silence after which an event stream sends a comment"
    )
    champion_poll_s: float = Field(
        default=2.0, gt=0, le=3600, description="pause between two looks at the champion alias"
    )
    rows_read_back: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="feature records read back a partition at start; more finds rarer symbols",
    )
    shutdown_s: int = Field(default=5, ge=1, le=300, description="time given to open requests when the server stops")

    @field_validator("api_token")
    @classmethod
    def _token_is_long(cls, token: SecretStr | None) -> SecretStr | None:
        # 16 characters: short enough to type, too long to try out over HTTP
        if token is not None and len(token.get_secret_value()) < 16:
            raise ValueError("must have at least 16 characters")
        return token

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_named(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not origin.startswith(("http://", "https://")) or "*" in origin or origin.count("/") != 2:
                raise ValueError("each must be one origin such as https://app.example.com, without path or *")
        return origins

    @model_validator(mode="after")
    def _loopback_or_token(self) -> Self:
        if not self.is_loopback and self.api_token is None:
            raise ValueError(
                f"host {self.host} is not a loopback address; set TICKWISE_API_TOKEN or listen on 127.0.0.1"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can connect; a name other than localhost counts as not."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
