"""What tests need that a machine may lack: without it they are skipped, but in CI they fail."""

import importlib
import os
from typing import Any, NoReturn

import pytest


def needed(module: str) -> Any:
    """Return an optional module, imported; give up where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        give_up(f"{error}; `make test` installs all that tests need")


def give_up(reason: str) -> NoReturn:
    """Skip the test, or the module that is being imported; where CI runs them, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)
