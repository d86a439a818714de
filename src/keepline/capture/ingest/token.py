"""The secret that the clients of a network way in show."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from keepline.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import SecretStr

_SHORTEST = 16
_HOW = "export KEEPLINE_INGEST__TOKEN=$(openssl rand -hex 16)"


class Token:
    """A secret that can be compared, and not read.

    Raises ConfigError when none is set, or one that can be guessed or not be sent.
    """

    __slots__ = ("_secret",)

    def __init__(self, setting: SecretStr | None) -> None:
        secret = "" if setting is None else setting.get_secret_value()
        if not secret:
            raise ConfigError(f"clients need a token, and none is set: {_HOW}")
        if len(secret) < _SHORTEST or not secret.isascii() or not secret.isprintable():
            raise ConfigError(
                f"the token needs at least {_SHORTEST} ASCII characters without a line end: {_HOW}"
            )
        if " " in secret or ":" in secret:
            raise ConfigError(f"the token must hold neither space nor colon: {_HOW}")
        self._secret = secret.encode()

    def matches(self, given: bytes) -> bool:
        """Return whether `given` is the secret, in a time that tells nothing about it."""
        return hmac.compare_digest(self._secret, given)
