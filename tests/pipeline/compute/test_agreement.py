"""Machines are compared before they compute: what could change pixels is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline.compute.agreement import (
    PIXELS,
    TOLD,
    Installation,
    installations,
    own_installation,
    refusal,
    remark,
)

if TYPE_CHECKING:
    from pipeline.compute.cluster import Client

OWN = own_installation()


def machine(host: str, **versions: str) -> Installation:
    return replace(OWN, host=host, versions={**OWN.versions, **versions})


def test_machines_that_have_the_same_are_not_mentioned() -> None:
    assert set(OWN.versions) == {*PIXELS, *TOLD}
    assert refusal(OWN, [OWN, machine("a")]) == remark(OWN, [OWN, machine("a")]) == ""


@pytest.mark.parametrize("name", PIXELS)
def test_what_could_change_pixels_is_refused_with_the_machines_that_have_it(name: str) -> None:
    others = [machine("c", **{name: "0.1"}), machine("b", **{name: "0.1"}), machine("a")]
    line = refusal(OWN, others)
    assert f"{name} is {OWN.versions[name]} here and 0.1 on b, c;" in line
    assert "install the same there" in line
    assert remark(OWN, others) == ""


@pytest.mark.parametrize("name", TOLD)
def test_what_changes_no_pixel_is_reported_and_not_refused(name: str) -> None:
    others = [machine("b", **{name: "0.1"}), machine("a")]
    assert refusal(OWN, others) == ""
    assert f"{name} is {OWN.versions[name]} here and 0.1 on b" in remark(OWN, others)


def test_a_backend_that_is_missing_somewhere_is_the_matter_of_jobs_that_need_it() -> None:
    assert refusal(OWN, [machine("a", openvino="")]) == ""
    assert "torch is" in refusal(OWN, [machine("a", torch="")])


def test_many_machines_are_not_all_listed() -> None:
    line = refusal(OWN, [machine(f"n{n}", numpy="1") for n in range(9)])
    assert "on n0, n1, n2, n3, n4 and 4 more;" in line


def test_workers_answer_for_themselves(client: Client) -> None:
    found = installations(client)
    assert len(found) == 2
    assert all(one.versions == OWN.versions and one.level == OWN.level for one in found)
