"""Settings of a feed."""

from pydantic import Field, SecretStr, field_validator

from data_io.settings import CommonSettings


class FeedSettings(CommonSettings):
    """Settings of ``tickwise feed``."""

    binance_api_key: SecretStr | None = Field(
        default=None, description="for past trades; Binance refuses some addresses that have none"
    )

    @field_validator("binance_api_key")
    @classmethod
    def _key_is_one_word(cls, key: SecretStr | None) -> SecretStr | None:
        # it goes out as a header, and no message that refuses a header may repeat it
        if key is not None and not (key.get_secret_value().isascii() and key.get_secret_value().isalnum()):
            raise ValueError("must be letters and digits")
        return key

    def api_key(self, venue: str) -> SecretStr | None:
        """Return the key for ``venue``; None where it has none."""
        return self.binance_api_key if venue == "binance" else None
