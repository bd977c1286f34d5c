"""Who may talk to a cluster: TLS by the files that its description names, or a key of one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distributed import Security

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.compute.clusters.description import Description

_PARTS = ("ca_file", "cert", "key")


def security_of(description: Description) -> Security | None:
    """Return what proves this process to a cluster by its files, None where it names none."""
    if not description.tls_cert:
        return None
    return of_texts({part: getattr(description, f"tls_{part}") for part in _PARTS})


def own_security(description: Description) -> Security:
    """Return the same for a cluster that this process starts; by default a key of this run."""
    return security_of(description) or Security.temporary()


def of_texts(texts: Mapping[str, str]) -> Security:
    """Return what three texts prove: CA, certificate and key, or the names of their files."""
    own = {
        f"tls_{role}_{part}": texts[part]
        for role in ("client", "scheduler", "worker")
        for part in ("cert", "key")
    }
    return Security(tls_ca_file=texts["ca_file"], require_encryption=True, **own)


def in_texts(security: Security) -> dict[str, str]:
    """Return CA, certificate and key as texts, for workers that do not have the files."""
    values = security.get_tls_config_for_role("worker")
    return {
        part: values[part] if "\n" in values[part] else Path(values[part]).read_text("utf-8")
        for part in _PARTS
    }


def in_files(security: Security, folder: Path) -> Security:
    """Return the same as files in a private `folder`, for workers that are started by a command."""
    files = {}
    for part, text in in_texts(security).items():
        files[part] = folder / f"{part}.pem"
        files[part].touch(mode=0o600)
        files[part].write_text(text, encoding="utf-8")
    return of_texts({part: str(file) for part, file in files.items()})
