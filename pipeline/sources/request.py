"""What every request to read pictures has in common: where they are, and how names are written."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.request_fields import needed, optional


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """Where the pictures are."""

    src: str = needed(
        "Pictures: a file, folder, glob, s3://BUCKET/PREFIX, .zip, .tar, or an archive of upres."
    )
    names: str | None = optional(
        None, "Encoding of file names in a .zip or .tar that does not say it, such as cp932."
    )
