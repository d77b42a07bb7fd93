"""Imports go one way: a room knows only rooms below it, a file only files below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kb_lens"

ROOMS = {
    "cli": "main report studies options terminal",
    "report": "write run study words page",
    "figures": """__init__ folders studies study_heatmaps layers study_panels methods
        neuron_effects specificity results attribution neurons export themes column marks style
        layout""",
    "studies": "experiments tables methods plans lab tuning",
    "runs": "diagnose identify folder record units ray_engine engines measure unit_store",
    "checks": """doctor control_tests controls neuron_effects neuron_meaning scaled_rows
        specificity""",
    "interventions": "folding weights checkpoint steering prompting scaling positions conditions",
    "neurons": "",
    "attribution": "attribute attributions quadrature path_gradients",
    "evaluation": "comparison evaluate results generation scoring",
    "knowledge": "",
    "benchmarks": """catalogue benchmark stereoset crows_pairs bbq bbq_metrics bbq_answers
        bbq_groups harness harness_files over_correction caution plain_text orders bank data
        requests""",
    "questions": "",
    "passes": "token_trees one_token_rows shared_prefix last_position matrix_products",
    "models": "loading gguf prompts hooked",
    "statistics": "",
    "store": "",
    "files": "",
}
"""The rooms from top to bottom, and the files of each from top to bottom."""

FILES = [
    f"{room}.{name}" if name else room
    for room, names in ROOMS.items()
    for name in (names.split() if names else [""])
]


def imports(path: Path) -> set[str]:
    """The files of the package that a file imports, wherever the import stands."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kb_lens"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            imported |= {name.removeprefix("kb_lens.") for name in names}
    return {name if name != "figures" else "figures.__init__" for name in imported} & {*FILES}


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_files_below_it(file):
    path = PACKAGE / f"{file.replace('.', '/')}.py"
    above = FILES[: FILES.index(file) + 1]
    assert imports(path).isdisjoint(above)


def test_every_file_has_its_place():
    present = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py" or path.parent.name == "figures"
    }
    assert present == set(FILES)
