"""Imports go one way: questions, models -> attribution -> neurons -> intervention, and so on."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kb_lens"
ALLOWED = {
    "files": set(),
    "matrix_products": set(),
    "models": set(),
    "questions": {"files"},
    "statistics": set(),
    "knowledge": {"files", "last_position", "models", "questions"},
    "last_position": set(),
    "shared_prefix": set(),
    "path_gradients": {"models", "shared_prefix"},
    "quadrature": {"path_gradients"},
    "attribution": {
        *("files", "knowledge", "matrix_products", "models", "path_gradients", "quadrature"),
        "questions",
    },
    "neurons": {"attribution", "files", "models"},
    "intervention": {"last_position", "models", "neurons"},
    "checkpoint": {"neurons"},
    "folding": {"checkpoint", "files", "intervention", "models", "neurons"},
    "benchmarks": {"files", "statistics"},
    "token_trees": {"last_position", "shared_prefix"},
    "scoring": {"benchmarks", "matrix_products", "models", "shared_prefix", "token_trees"},
    "generation": {"benchmarks", "models"},
    "evaluation": {"benchmarks", "files", "generation", "models", "scoring", "statistics"},
    "figures": {
        *("attribution", "control_tests", "evaluation", "knowledge", "neurons", "plots"),
        "specificity",
    },
    "comparison": {"benchmarks", "evaluation", "statistics"},
    "specificity": {"attribution", "files", "knowledge", "neurons", "questions"},
    "doctor": {"attribution", "comparison", "evaluation", "knowledge", "neurons", "specificity"},
    "plots": {
        *("attribution", "benchmarks", "evaluation", "knowledge", "neurons", "questions"),
        *("control_tests", "neuron_effects", "specificity", "statistics", "tuning"),
    },
    "export_figures": {"files", "plots"},
    "saved_figures": {"experiments", "figures", "neuron_effects", "run_folder", "tuning"},
    "run_folder": {
        *("attribution", "evaluation", "files", "knowledge", "models", "neurons", "specificity"),
    },
    "report_page": {"plots"},
    "report_words": {"benchmarks", "comparison", "evaluation", "neurons", "statistics"},
    "report_run": {
        *("attribution", "comparison", "evaluation", "knowledge", "neurons", "report_page"),
        *("report_words", "run_folder"),
    },
    "report_study": {"benchmarks", "experiments", "report_page", "report_words", "statistics"},
    "report": {
        *("experiments", "files", "plots", "report_page", "report_run", "report_study"),
        "run_folder",
    },
    "conditions": {"benchmarks", "intervention", "neurons"},
    "steering": {"benchmarks", "files", "last_position", "models"},
    "neuron_meaning": {"benchmarks", "matrix_products", "models", "neurons", "questions"},
    "scaled_rows": {"intervention", "models", "path_gradients", "shared_prefix"},
    "neuron_effects": {
        *("attribution", "files", "intervention", "knowledge", "matrix_products", "models"),
        *("neurons", "questions", "scaled_rows", "statistics"),
    },
    "controls": {"benchmarks", "models", "neuron_meaning", "neurons"},
    "control_tests": {"benchmarks", "comparison", "evaluation", "statistics"},
    "tuning": {
        *("benchmarks", "comparison", "conditions", "evaluation", "files", "intervention"),
        *("neurons", "pipeline", "statistics"),
    },
    "unit_store": {"evaluation", "files", "statistics"},
    "engines": {"evaluation", "unit_store"},
    "units": {"benchmarks", "conditions", "engines", "evaluation", "models", "unit_store"},
    "studies": {
        *("attribution", "benchmarks", "conditions", "controls", "evaluation", "intervention"),
        *("knowledge", "neurons", "questions", "specificity", "unit_store", "units"),
    },
    "methods": {
        *("benchmarks", "conditions", "control_tests", "controls", "evaluation", "models"),
        *("neurons", "specificity", "steering", "studies"),
    },
    "experiments": {
        *("benchmarks", "comparison", "conditions", "control_tests", "engines", "evaluation"),
        *("files", "methods", "models", "studies", "unit_store", "units"),
    },
    "pipeline": {
        *("attribution", "benchmarks", "conditions", "doctor", "evaluation", "files"),
        *("knowledge", "models", "neurons", "questions", "specificity"),
    },
}


def _imports(module: str) -> set[str]:
    paths = [PACKAGE / f"{module}.py"]
    if not paths[0].exists():
        paths = list((PACKAGE / module).glob("*.py"))
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kb_lens"):
                names = (
                    [node.module]
                    if node.module != "kb_lens"
                    else [f"kb_lens.{alias.name}" for alias in node.names]
                )
                found |= {name.split(".")[1] for name in names}
    return found - {module}


@pytest.mark.parametrize("module", ALLOWED)
def test_imports_go_one_way(module):
    assert _imports(module) <= ALLOWED[module]


def test_every_module_has_its_place():
    modules = {path.stem for path in PACKAGE.iterdir() if path.name not in ("__pycache__",)}
    outside = {"__init__", "cli", "cli_options", "cli_report", "cli_studies", "terminal", "py"}
    assert modules - outside == set(ALLOWED)
