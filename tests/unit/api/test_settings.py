"""Settings of the server: safe by default, refused where they are not."""

import pytest

from api.settings import ServerSettings
from ml_core.errors import InvalidSettingsError

TOKEN, SHORT = "a-token-long-enough", "hunter2"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in ("HOST", "PORT", "API_TOKEN", "CORS_ORIGINS"):
        monkeypatch.delenv(f"TICKWISE_{name}", raising=False)


def test_the_server_listens_on_loopback_alone_unless_told_otherwise():
    settings = ServerSettings.read()

    assert (settings.host, settings.port, settings.is_loopback, settings.cors_origins) == ("127.0.0.1", 8000, True, ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])  # noqa: S104 - refused here
def test_another_address_than_loopback_is_refused_without_a_token(host):
    with pytest.raises(InvalidSettingsError, match=r"^host .* is not a loopback address; set TICKWISE_API_TOKEN"):
        ServerSettings.read(host=host)

    assert not ServerSettings.read(host=host, api_token=TOKEN).is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_every_form_of_loopback_needs_no_token(host):
    assert ServerSettings.read(host=host).is_loopback


def test_a_short_token_is_refused_without_being_told():
    with pytest.raises(InvalidSettingsError, match="at least 16 characters") as caught:
        ServerSettings.read(api_token=SHORT)

    assert SHORT not in str(caught.value)


def test_a_token_is_not_printed():
    assert TOKEN not in repr(ServerSettings.read(api_token=TOKEN))


def test_origins_are_read_from_a_comma_separated_variable(monkeypatch):
    monkeypatch.setenv("TICKWISE_CORS_ORIGINS", "https://app.example.com, http://localhost:3000")

    assert ServerSettings.read().cors_origins == ("https://app.example.com", "http://localhost:3000")


@pytest.mark.parametrize("origin", ["*", "app.example.com", "https://*.example.com", "https://app.example.com/path"])
def test_an_origin_that_names_more_than_one_place_is_refused(origin):
    with pytest.raises(InvalidSettingsError, match="CORS_ORIGINS"):
        ServerSettings.read(cors_origins=origin)


@pytest.mark.parametrize(("name", "value"), [("port", 70000), ("max_body_bytes", 1), ("heartbeat_s", 0)])
def test_numbers_have_bounds(name, value):
    with pytest.raises(InvalidSettingsError, match=name.upper()):
        ServerSettings.read(**{name: value})
