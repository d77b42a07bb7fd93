"""Write the table of families into docs/models.md, each row after its checks have run.

Run ``make families``.
"""

import sys
import tempfile
from pathlib import Path

import transformers
from families import ABSENT, FAMILIES, Family
from family_checks import is_present, outcome, shortfall
from tqdm.auto import tqdm

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
START, END = "<!-- families -->\n", "<!-- end of families -->\n"
HEAD = """| family | class | load | attribute | scale | fold | what kb_lens says |
|---|---|---|---|---|---|---|
"""


def row(family: Family) -> str:
    """A line of the table, from what is expected of the family."""
    expected = family.expected
    cells = [family.name, f"`{family.architecture}`"]
    if is_present(family):
        cells += [expected.load, expected.attribute, expected.scale, expected.fold, expected.says]
    else:
        cells += [ABSENT, "", "", "", ""]
    return f"| {' | '.join(cells)} |\n"


def page_with(table: str, page: str) -> str:
    """The page with another table between its marks."""
    before, rest = page.split(START)
    return before + START + table + END + rest.split(END)[1]


def table() -> str:
    """All rows below their head."""
    return HEAD + "".join(row(family) for family in FAMILIES)


def main() -> None:
    """Run every family's checks; write the table if all came out as expected."""
    transformers.utils.logging.disable_progress_bar()
    for family in tqdm(FAMILIES):
        with tempfile.TemporaryDirectory() as folder:
            if difference := shortfall(family, outcome(family, Path(folder))):
                sys.exit(f"{family.name}: {difference} Change its row in families.py.")
    PAGE.write_text(page_with(table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
