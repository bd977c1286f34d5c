"""Who may talk to a cluster: TLS by the files that its description names, or a key of one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed import Security

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.compute.clusters.description import Description


def security_of(description: Description) -> Security | None:
    """Return what proves this process to a cluster by its files, None where it names none."""
    if not description.tls_cert:
        return None
    return _of_files(description.tls_ca_file, description.tls_cert, description.tls_key)


def own_security(description: Description) -> Security:
    """Return the same for a cluster that this process starts; by default a key of this run."""
    return security_of(description) or Security.temporary()


def in_files(security: Security, folder: Path) -> Security:
    """Return the same as files in a private `folder`, for workers that are started by a command."""
    texts = security.get_tls_config_for_role("worker")
    if "\n" not in texts["cert"]:
        return security
    files = {}
    for part in ("ca_file", "cert", "key"):
        files[part] = folder / f"{part}.pem"
        files[part].touch(mode=0o600)
        files[part].write_text(texts[part])
    return _of_files(*map(str, files.values()))


def _of_files(ca_file: str, cert: str, key: str) -> Security:
    own = {
        f"tls_{role}_{part}": value
        for role in ("client", "scheduler", "worker")
        for part, value in (("cert", cert), ("key", key))
    }
    return Security(tls_ca_file=ca_file, require_encryption=True, **own)
