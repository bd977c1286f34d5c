"""Opening an object store with the endpoint and the credentials in the environment."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import Any

from obstore import store as obstores

from pipeline.errors import NoStoreError
from pipeline.storage.store_answers import PATIENCE, patience_s

SCHEMES = ("s3", "gs", "az")

CHECK_S = 8.0
"""How long a store may take to say whether it can be used at all."""

_ANSWER_S = 30
_CONNECT_S = 5
_MOST_TRIES = 10_000
"""Never met: the time is what ends it. Twenty tries are over in five seconds."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")


def environment() -> int:
    """Return a number that changes with whatever in the environment stores are opened by."""
    names = (n for n in os.environ if n.startswith(("AWS_", "AZURE_", "GOOGLE_", PATIENCE)))
    return hash(tuple(sorted((name, os.environ[name]) for name in names)))


@lru_cache(maxsize=64)
def open_store(
    scheme: str, bucket: str, prefix: str, _where: tuple[int, int], *, brief: bool
) -> Any:
    """Open what is below a prefix of a bucket, once for each `_where`: process and environment.

    `brief` gives up soon.

    Raises:
        NoStoreError: if the endpoint in the environment is not an address, or the patience there
            is not a number of seconds.
    """
    for name in _ENDPOINTS:
        # What obstore cannot use makes it panic.
        if re.fullmatch(r"(https?://[\w.:\[\]-]+(/[\w./-]*)?)?", os.environ.get(name, "")) is None:
            raise NoStoreError(f"{name} is not an address, expected http(s)://HOST:PORT")
    least = timedelta(seconds=2 if brief else _ANSWER_S)
    client: Any = {
        "timeout": least,
        "connect_timeout": timedelta(seconds=2 if brief else _CONNECT_S),
        "allow_http": _is_plain_http(),
    }
    retry: Any = {
        "max_retries": _MOST_TRIES,
        "retry_timeout": timedelta(seconds=CHECK_S / 2 if brief else patience_s()),
        "backoff": {"max_backoff": timedelta(seconds=1 if brief else 5)},
    }
    kinds: dict[str, Any] = {
        "s3": obstores.S3Store,
        "gs": obstores.GCSStore,
        "az": obstores.AzureStore,
    }
    options = {"prefix": prefix or None, "client_options": client, "retry_config": retry}
    return kinds[scheme](bucket, **options)


def _is_plain_http() -> bool:
    """Return whether the endpoint that the user named is not encrypted."""
    asked = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1")
    return asked or any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
