"""What Prefect makes of parameters of flows: places are texts in its forms, and values after."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.exceptions import ParameterTypeError

from flows.upscale import upscale_archive
from pipeline.storage.store import BucketPlace

REQUEST = {"src": "s3://bucket/photos", "job_dir": "s3://bucket/job", "export_dir": "large"}


def test_a_place_in_a_bucket_is_a_text_in_a_form_and_reaches_the_flow_as_a_place() -> None:
    found = upscale_archive.validate_parameters(REQUEST)
    assert found["job_dir"] == BucketPlace("s3", "bucket", "job")
    assert found["export_dir"] == Path("large")
    assert found["src"] == "s3://bucket/photos"
    form = upscale_archive.parameters.properties
    assert (form["job_dir"]["type"], form["job_dir"]["format"]) == ("string", "path")


def test_an_address_that_is_not_of_a_store_is_refused_before_the_flow_begins() -> None:
    with pytest.raises(ParameterTypeError, match="expected a local path, s3://"):
        upscale_archive.validate_parameters(REQUEST | {"job_dir": "ftp://host/job"})
