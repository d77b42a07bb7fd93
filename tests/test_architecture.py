"""Imports go one way: a room knows only rooms below it, a file only files below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kb_lens"

ROOMS = {
    "cli": "main jobs studies pages tasks terminal options config parsing errors",
    "report": "push card write run study words page",
    "figures": """__init__ folders paper studies study_forest study_heatmaps layers study_panels
        methods tuning neuron_effects specificity words results results_panels knowledge
        completeness attribution neurons next_tokens neuron_card ablation activations export
        printing widths themes column marks style layout""",
    "studies": """paper paper_table run_study choose_lambda also experiments cost tables methods
        baselines asked_otherwise plans lab tuning tuned""",
    "runs": """run random_controls diagnose neurons export evaluate identify folder record
        cost benchmark_names settings ray_workers ray_cluster
        execution devices asking measure same_damage units
        given_neurons holders""",
    "checks": """neuronpedia neuron_cards ablation_study doctor effect_checks neuron_checks check
        control_tests matched_factor controls neuron_effects effects neuron_meaning activations
        scaled_rows specificity agreed_spelling""",
    "interventions": """folding weights checkpoint export_folder trained bias_neurons fairsteer
        inlp sentence_debias group_texts projection linear_probe steering residual counterfactuals
        prompting self_debiasing second_pass scaling positions conditions""",
    "neurons": "selection sets card names",
    "attribution": """attribute calibration engines attributions settings quadrature path_gradients
        head objective""",
    "evaluation": """word_changes markdown comparison evaluate slices entries results result_files
        first_turns generation sampling scoring second_pass encoding excerpts""",
    "knowledge": "check verdict answer_files measures",
    "benchmarks": """export_tasks harness_functions catalogue stereoset stereoset_metrics
        crows_pairs crows_pairs_metrics crows_pairs_words bbq bbq_metrics bbq_answers
        bbq_groups balanced_copa harness harness_files over_correction caution plain_text measures
        own_items benchmark orders bank data source_rows release requests titles""",
    "completions": "",
    "questions": "",
    "passes": """token_trees plain_scores one_token_rows shared_prefix last_position last_logits
        matrix_products out_of_memory""",
    "records": "tensors tables objects",
    "models": """hub loading pretrained placement devices adapters sources taught gguf low_rank
        config_sizes completeness bridge_check evaluation_mode exclusive_use cache_name answers
        prompts chat template_syntax time_limit lessons hooked foreign_code library_bars digests
        offloaded""",
    "statistics": "",
    "intervals": "",
    "resampling": "",
    "shared_work": "",
    "progress": "",
    "store": "",
    "files": "",
    "arguments": "",
    "rows": "",
    "extras": "",
    "written": "",
    "user_warnings": "",
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
