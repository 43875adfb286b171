"""Airflow answers to its own names only.

A page whose name was made to point at this machine (DNS rebinding) reaches the API server through the visitor's browser,
and has its own name in `Host`: it gets 400. Ours are loopback and the name in `AIRFLOW__API__BASE_URL`.
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from starlette.middleware.trustedhost import TrustedHostMiddleware


def names() -> list[str]:
    """The names, without ports."""
    public = urlsplit(conf.get("api", "base_url", fallback="")).hostname
    return ["127.0.0.1", "localhost", *([public] if public else [])]


class AllowedHosts(AirflowPlugin):
    """Refuses requests for any other name, before Airflow sees them."""

    name = "r1_allowed_hosts"
    fastapi_root_middlewares: ClassVar[list[Any]] = [
        {
            "name": "Allowed hosts",
            "middleware": TrustedHostMiddleware,
            "kwargs": {"allowed_hosts": names(), "www_redirect": False},
        }
    ]
