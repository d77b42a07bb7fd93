"""What docs/models.md says of each family of models is so, on a tiny random checkpoint."""

import dataclasses

import pytest
from families import COMMON, FAMILIES, Outcome
from family_checks import outcome, shortfall
from write_families import PAGE, page_with, table


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.name, marks=[] if family in COMMON else pytest.mark.slow)
        for family in FAMILIES
    ],
)
def test_a_family_does_what_its_row_says(family, tmp_path):
    assert not shortfall(family, outcome(family, tmp_path))


def test_the_page_has_the_table_that_the_script_writes():
    page = PAGE.read_text(encoding="utf-8")
    assert page_with(table(), page) == page


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Outcome)])
def test_a_row_that_does_not_hold_is_noticed(field):
    family = FAMILIES[0]
    assert not shortfall(family, family.expected)
    assert shortfall(family, dataclasses.replace(family.expected, **{field: "something else"}))
