"""Places as values: what a text means, what a place says of itself, and what it never carries."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.errors import NoStoreError, UsageError
from pipeline.sources.overlap import reads
from pipeline.storage.access import EVERYONE, readers
from pipeline.storage.ledger import ledger_file, without_password
from pipeline.storage.places import is_inside
from pipeline.storage.store import BucketPlace, local, place_of
from pipeline.storage.zarr_stores import BucketStore, place_at, store_at

PLACE = BucketPlace("s3", "bucket", "photos/night")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://bucket", BucketPlace("s3", "bucket")),
        ("S3://bucket/", BucketPlace("s3", "bucket")),
        ("s3://bucket/photos/night/", PLACE),
        ("gs://bucket/a b/ü#?%41.jpg", BucketPlace("gs", "bucket", "a b/ü#?%41.jpg")),
        ("az://container/x", BucketPlace("az", "container", "x")),
        ("photos", Path("photos")),
        ("./s3:/bucket", Path("s3:/bucket")),
        ("s3:bucket", Path("s3:bucket")),
        ("/tmp/a:b", Path("/tmp/a:b")),
    ],
)
def test_a_text_is_an_address_or_a_path(text: str, place: object) -> None:
    assert place_of(text) == place
    if isinstance(place, BucketPlace):
        assert place_of(str(place)) == place


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("http://host/x", "expected a local path, s3://"),
        ("ftp://me:s3cret@host/x", "expected a local path, s3://"),
        ("s3://", "names no bucket"),
        ("s3:/me:s3cret@bucket/x", "has one slash, expected s3://BUCKET/PREFIX"),
        ("s3:///x", "names no bucket"),
        ("s3://me:s3cret@bucket/x", "endpoint and credentials are read from the environment"),
        ("s3://host:9000/x", "names no bucket"),
        ("s3://bucket/a//b", "part that is empty"),
        ("s3://bucket/a/../b", "part that is empty"),
    ],
)
def test_another_address_is_refused_in_a_line_without_what_may_be_a_secret(
    text: str, wanted: str
) -> None:
    with pytest.raises(NoStoreError, match=wanted) as caught:
        place_of(text)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_place_in_a_bucket_is_named_as_a_path_is() -> None:
    below = PLACE / "a" / "b.png"
    assert str(below) == "s3://bucket/photos/night/a/b.png"
    assert (below.name, below.suffix) == ("b.png", ".png")
    assert below.parent == PLACE / "a"
    assert list(below.parents) == [
        PLACE / "a",
        PLACE,
        BucketPlace("s3", "bucket", "photos"),
        BucketPlace("s3", "bucket"),
    ]
    assert below.with_name("c") == PLACE / "a/c"
    assert PLACE.joinpath("x", "y") == PLACE / "x/y"
    assert BucketPlace("s3", "bucket") / "x" == BucketPlace("s3", "bucket", "x")


@pytest.mark.parametrize(
    ("place", "folder", "inside"),
    [
        (PLACE, PLACE, True),
        (PLACE / "x", PLACE, True),
        (PLACE, BucketPlace("s3", "bucket"), True),
        (PLACE, PLACE / "x", False),
        (BucketPlace("s3", "bucket", "photos/nights"), PLACE, False),
        (BucketPlace("s3", "other", "photos/night"), PLACE, False),
        (BucketPlace("gs", "bucket", "photos/night"), PLACE, False),
        (Path("photos/night"), PLACE, False),
        (PLACE, Path("/"), False),
    ],
)
def test_a_place_is_inside_another_by_its_key(place: object, folder: object, inside: bool) -> None:
    assert is_inside(place, folder) is inside  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("s3://bucket/photos", True),
        ("s3://bucket/photos/*/*.jpg", True),
        ("s3://bucket/photos/**/*.jpg", True),
        ("s3://bucket/photos/d*/*.jpg", False),
        ("s3://bucket/photo", False),
        ("s3://other/photos", False),
        ("photos", False),
    ],
)
def test_what_is_written_among_the_pictures_of_a_bucket_would_be_read(
    source: str, read: bool
) -> None:
    assert reads(source, PLACE) is read


def test_what_is_pickled_is_the_address_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://endpoint.example:9000")
    store = store_at(PLACE)
    pickled = pickle.dumps((PLACE, store))
    for secret in (b"s3cret", b"AKIASECRET", b"endpoint.example"):
        assert secret not in pickled
        assert secret.decode() not in f"{store} {store!r} {PLACE!r}"
    place, again = pickle.loads(pickled)
    assert (place, place_at(again)) == (PLACE, PLACE)
    assert isinstance(again, BucketStore)


def test_what_is_in_a_bucket_is_for_this_account_alone_on_a_disk(tmp_path: Path) -> None:
    assert readers([str(PLACE)], near=tmp_path) == 0
    assert readers([tmp_path], near=PLACE) == EVERYONE


def test_what_can_only_be_local_is_refused_in_a_bucket(tmp_path: Path) -> None:
    assert local(tmp_path, "DATASET") == tmp_path
    with pytest.raises(UsageError, match="DATASET is s3://bucket/photos/night, expected a local"):
        local(PLACE, "DATASET")


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("postgresql://me:s3cret@h:5/db", "postgresql+psycopg://me@h:5/db"),
        ("postgresql+psycopg://me:s3cret@h/db?sslmode=require&password=s3cret",
         "postgresql+psycopg://me@h/db?sslmode=require"),
        ("postgresql://h/db?user=me&sslpassword=s3cret", "postgresql+psycopg://h/db?user=me"),
        ("sqlite:////tmp/l.sqlite", "sqlite:////tmp/l.sqlite"),
    ],
)  # fmt: skip
def test_the_url_of_a_ledger_is_kept_in_a_bucket_without_its_password(url: str, plain: str) -> None:
    assert without_password(url) == plain
    assert without_password(plain) == plain


def test_the_file_of_a_ledger_is_known_by_its_url() -> None:
    assert ledger_file("sqlite:////tmp/l.sqlite") == Path("/tmp/l.sqlite")
    assert ledger_file("postgresql://me@h/db") is None
