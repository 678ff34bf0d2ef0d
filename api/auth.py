"""Who may call: a bearer token, when the settings name one."""

import secrets
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.errors import AccessDeniedError

_bearer = HTTPBearer(auto_error=False, description="needed when the server was started with TICKWISE_API_TOKEN")


async def require_token(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Refuse a request without the token of the settings; without one there, anybody who can connect may call.

    Raises:
        AccessDeniedError: No token, or a wrong one.
    """
    token = request.app.state.settings.api_token
    if token is None:
        return
    # compared in constant time and as bytes, because compare_digest refuses text that is not ASCII
    if given is None or not secrets.compare_digest(given.credentials.encode(), token.get_secret_value().encode()):
        raise AccessDeniedError
