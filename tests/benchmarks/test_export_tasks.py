"""Task files of lm-evaluation-harness: run there, they give the numbers of `kb_lens`."""

import ast
import logging
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
import yaml
from chat_templates import NO_SYSTEM
from commands import write_lines
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from test_over_correction import ROWS, write
from tiny_models import tiny_bridge, tiny_tokenizer

import kb_lens as kb
from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.benchmarks.export_tasks import COLUMNS, write_tasks
from kb_lens.benchmarks.requests import SYSTEM, OptionScores
from kb_lens.cli.main import app
from kb_lens.models.chat import chat_text
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.statistics import point

BIAS_TYPES = ("gender", "profession", "race", "religion")
WORDS = ("tall", "good", "a chess player", "walking", "in the city", "many", "running", "better")
FAST = {"progress": False, "n_bootstrap": 50}
ANSWERS = (
    "Here is a card: be well!",
    "It is a stereotype that he likes that.",
    "I'm sorry, but I can't help with that.",
    "It is important to note that everyone is different.",
    "Dense.",
)
"""What a model may write: nothing to flag, and one of each flag."""


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def sentences(k):
    """A row of StereoSet; some targets have several items."""
    one, two, three = (WORDS[(k * step + k // 8 + 1) % 8] for step in (1, 3, 5))
    return {
        "type": ("intrasentence", "intersentence")[k % 2],
        "bias_type": BIAS_TYPES[k // 2 % 4],
        "target": f"target {k * k % 9}",
        "context": f"The schoolgirl is here {k}.",
        "stereotype": f"She was {one}.",
        "anti-stereotype": f"She was {two}.",
        "unrelated": f"{three} is she.",
    }


@pytest.fixture
def data(tmp_path):
    """A data folder with rows of both benchmarks."""
    write_lines(tmp_path / "data/stereoset/dev.jsonl", [sentences(k) for k in range(16)])
    return write(tmp_path / "data")


@pytest.fixture(scope="module")
def model():
    """A tiny random llama with room for the instruction."""
    return tiny_bridge(max_position_embeddings=1024)


def load(key, data, **options):
    name = key.removesuffix("_instructed")
    protocol = "original" if key == name else "instructed"
    return load_benchmark(name, protocol=protocol, data_dir=data, **options)


def run(folder, benchmarks, lm, **options):
    """What the harness finds with the written files: task -> metric -> value, and its samples."""
    names = write_tasks(folder, benchmarks)
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(lm, tasks=names, task_manager=tasks, bootstrap_iters=0, **options)
    return {task: _values(found["results"][task]) for task in names}, found["samples"]


def _values(results):
    kept = {name.removesuffix(",none"): value for name, value in results.items()}
    return {name: kept[name] for name in kept if not name.endswith(("_stderr", "alias", "name"))}


def check_values(theirs, ours):
    """Every metric that both have is the same; kb_lens alone has those of tokens."""
    ours = {name: value for name, value in ours.items() if "per_token" not in name}
    assert {name: theirs[name] for name in ours} == pytest.approx(ours, abs=1e-4)
    more = {name for name in theirs.keys() - ours.keys() if theirs[name] == theirs[name]}
    assert all("logprob_per_byte" in name or name == "sample_len" for name in more)


def evaluated(model, benchmark):
    result = kb.evaluate(model, benchmark, **FAST)
    return {name: metric.value for name, metric in result.metrics.items()}, result.items


def hflm(model):
    return HFLM(pretrained=model.original_model, tokenizer=model.tokenizer, batch_size=16)


# --- the same numbers --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("template", [True, False])
def test_the_harness_finds_what_kb_lens_finds(data, tmp_path, model, template):
    """With a chat template, and without: then chats are plain text in both."""
    if not template:
        model = tiny_bridge(max_position_embeddings=1024)
        model.tokenizer.chat_template = None
    benchmarks = [load(key, data) for key in COLUMNS]
    # One flag for all tasks: StereoSet's original protocol is bare text all the same.
    found, samples = run(tmp_path / "tasks", benchmarks, hflm(model), apply_chat_template=template)
    for benchmark in benchmarks:
        ours, items = evaluated(model, benchmark)
        check_values(found[f"kb_lens_{benchmark.key}"], ours)
        assert benchmark.name != "stereoset" or 0 < ours["icat"] < 100
    written = [sample["filtered_resps"][0] for sample in samples["kb_lens_over_correction"]]
    assert written == items["text"].tolist()
    assert len(set(written)) == len(ROWS)


def test_so_they_do_under_an_intervention(data, tmp_path, model):
    benchmark = load("stereoset", data)
    neurons = kb.NeuronSet(
        neurons=tuple(kb.Neuron(layer, index) for layer in range(3) for index in range(9)),
        model=model_name(model),
        fingerprint=fingerprint(model),
        site="post",
        n_layers=3,
        d_mlp=48,
    )
    base, _ = run(tmp_path / "tasks", [benchmark], hflm(model))
    with kb.scale_neurons(model, neurons, lam=4.0):
        ours, _ = evaluated(model, benchmark)
        scaled, _ = run(tmp_path / "tasks", [benchmark], hflm(model))
    check_values(scaled["kb_lens_stereoset"], ours)
    assert scaled["kb_lens_stereoset"]["icat"] != pytest.approx(base["kb_lens_stereoset"]["icat"])


def test_so_they_do_on_forty_of_the_authors_items(data_dir, tmp_path):
    model = tiny_bridge("gpt2", n_positions=1024)
    benchmark = load("stereoset", data_dir, limit=40)
    found, _ = run(tmp_path, [benchmark], hflm(model))
    ours, items = evaluated(model, benchmark)
    check_values(found["kb_lens_stereoset"], ours)
    assert items["bias_type"].nunique() == 4


@pytest.mark.slow
def test_so_they_do_on_forty_instructed_ones(data_dir, tmp_path, model):
    benchmark = load("stereoset_instructed", data_dir, limit=40)
    found, _ = run(tmp_path, [benchmark], hflm(model), apply_chat_template=True)
    check_values(found["kb_lens_stereoset_instructed"], evaluated(model, benchmark)[0])


class Canned(LM):
    """A model whose answers depend on the texts alone, with ties."""

    def loglikelihood(self, requests):
        return [(canned_logprob(*request.args), False) for request in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        return [canned_text(request.args[0]) for request in requests]


def canned_logprob(prompt, option):
    return -1.0 - zlib.crc32((prompt + option).encode()) % 3


def canned_text(prompt):
    return ANSWERS[zlib.crc32(prompt.encode()) % len(ANSWERS)]


def canned_scores(benchmark):
    """The same answers as kb_lens gets them."""
    plain = tiny_tokenizer()
    plain.chat_template = None
    logprob, texts = [], []
    for request in benchmark.requests:
        prompt, space = request.prompt, ""
        if request.chat:
            prompt, space = chat_text(plain, request.system, request.prompt), " "
        logprob.append([canned_logprob(prompt, space + option) for option in request.options])
        texts.append(canned_text(prompt) if request.write else "")
    return OptionScores(np.array(logprob), np.full(np.shape(logprob), 2), tuple(texts))


@pytest.mark.parametrize("key", COLUMNS)
def test_verdicts_and_means_are_those_of_kb_lens(key, data, tmp_path):
    """On all answers that there are, ties and every flag included."""
    source = None if key == "over_correction" else data
    benchmark = load(key, source)
    found, _ = run(tmp_path / "tasks", [benchmark], Canned())
    scores = canned_scores(benchmark)
    table = benchmark.tabulate(benchmark.items, scores)
    ours = point(benchmark.formulas.statistics(table), benchmark.formulas.metrics)
    theirs = found[f"kb_lens_{key}"]
    check_values(theirs, {name: measure.value.item() for name, measure in ours.items()})
    if key == "over_correction":
        assert all(0 < theirs[name] < 100 for name in ("warned", "refused", "hedged_control"))
        answers = [request.options[0] for request in benchmark.requests[::2]]
        n_bytes = sum(len(answer.encode()) for answer in answers)
        expected = scores.logprob[::2].sum() / n_bytes
    else:
        assert len(set(np.sign(np.diff(scores.logprob[:, :2]))[:, 0])) == 3, "wins, losses, ties"
        n_bytes = sum(len(option.encode()) for r in benchmark.requests for option in r.options)
        expected = scores.logprob.sum() / n_bytes
    if key != "stereoset_instructed":
        assert theirs["logprob_per_byte"] == pytest.approx(expected)


def test_excess_of_the_log_probability_by_hand(data, tmp_path):
    benchmark = load("over_correction", data)
    found, samples = run(tmp_path / "tasks", [benchmark], Canned())
    prompts, controls = (
        np.array([(sample["resps"][k][0][0], len(sample["doc"]["options"][k // 2][0].encode()))
                  for sample in samples["kb_lens_over_correction"]
                  if sample["doc"]["kind"] != "everyday"])
        for k in (1, 3)
    )  # fmt: skip
    means = [pairs[:, 0].sum() / pairs[:, 1].sum() for pairs in (prompts, controls)]
    theirs = found["kb_lens_over_correction"]
    assert len(prompts) == 3
    assert theirs["logprob_per_byte_control"] == pytest.approx(means[1])
    assert theirs["excess_logprob_per_byte"] == pytest.approx(means[0] - means[1])


# --- what the model reads ----------------------------------------------------------------------


def test_a_template_without_a_system_role_has_its_text_in_the_users(data, tmp_path):
    model = tiny_bridge(max_position_embeddings=1024)
    model.tokenizer.chat_template = NO_SYSTEM
    benchmark = load("stereoset_instructed", data, limit=2)
    _, samples = run(tmp_path / "tasks", [benchmark], hflm(model), apply_chat_template=True)
    read = [
        prompt
        for sample in samples["kb_lens_stereoset_instructed"]
        for prompt, _ in sample["arguments"][::3]
    ]
    assert read == [chat_text(model.tokenizer, SYSTEM, r.prompt) for r in benchmark.requests]
    assert all(f"{SYSTEM}\n\n" in prompt for prompt in read)


def test_no_examples_come_before_an_item_and_no_metric_is_warned_of(data, tmp_path, caplog):
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    benchmarks = [load(key, data) for key in COLUMNS]
    _, samples = run(tmp_path / "tasks", benchmarks, Canned(), num_fewshot=3)
    read = samples["kb_lens_stereoset"][1]["arguments"][0]
    assert read == (benchmarks[0].requests[1].prompt, benchmarks[0].requests[1].options[0])
    told = [record.getMessage() for record in caplog.records if record.name.startswith("lm_eval")]
    assert not [text for text in told if "number of documents" in text or "aggregation" in text]


def test_the_files_say_what_the_requests_say(data, tmp_path):
    benchmarks = [load(key, data) for key in COLUMNS]
    for name, benchmark in zip(write_tasks(tmp_path, benchmarks), benchmarks, strict=True):
        text = (tmp_path / f"{name}.yaml").read_text(encoding="utf-8").replace("!function ", "")
        content = yaml.safe_load(text)
        request = benchmark.requests[0]
        assert content["task"] == name
        assert content.get("description") == (request.system if request.chat else None)
        assert content.get("generation_kwargs", {}).get("max_gen_toks", 0) == request.write
        about = {"items": len(benchmark.items), "source": benchmark.source}
        assert content["metadata"] == about | {"version": 1.0, "digest": benchmark.digest}


# --- the folder --------------------------------------------------------------------------------


def test_the_folder_may_be_moved_and_imports_nothing_of_kb_lens(data, tmp_path):
    shutil.move(tmp_path / "data", tmp_path / "other")
    names = write_tasks(tmp_path / "a", [load(key, tmp_path / "other") for key in COLUMNS])
    shutil.move(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "other")
    tasks = TaskManager(include_path=str(tmp_path / "b"), include_defaults=False)
    assert [len(tasks.load([name])["tasks"][name].eval_docs) for name in names] == [16, 16, 4]
    for path in (tmp_path / "b").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in getattr(node, "names", ())]
            modules.append(getattr(node, "module", None) or "")
            assert not [name for name in modules if name.startswith("kb_lens")], path


def test_writing_needs_no_harness(tmp_path):
    program = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "from kb_lens.benchmarks.catalogue import load_benchmark\n"
        "from kb_lens.benchmarks.export_tasks import write_tasks\n"
        "write_tasks(sys.argv[1], [load_benchmark('over_correction', limit=3)])"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=True)
    assert len((tmp_path / "out/kb_lens_over_correction.jsonl").read_text().splitlines()) == 3


def test_the_command_writes_all_tasks(data, tmp_path, capsys):
    out = tmp_path / "out"
    app(["tasks", "--data-dir", str(data), "--limit", "4", "--out", str(out)],
        result_action="return_value")  # fmt: skip
    assert sorted(path.stem for path in out.glob("*.yaml")) == sorted(
        f"kb_lens_{k}" for k in COLUMNS
    )
    assert "--tasks kb_lens_stereoset,kb_lens_stereoset_instructed" in capsys.readouterr().out
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "| `kb_lens_stereoset_instructed` | 4 | stereoset/dev.jsonl |" in readme


def test_tasks_are_replaced_and_nothing_else(data, tmp_path):
    out = tmp_path / "out"
    write_tasks(out, [load(key, data) for key in COLUMNS])
    (out / "notes.txt").write_text("mine")
    write_tasks(out, [load("stereoset", data, limit=8)])
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "caution.py", "kb_lens_stereoset.jsonl", "kb_lens_stereoset.yaml",
        "kb_lens_tasks.py", "notes.txt",
    ]  # fmt: skip
    assert len((out / "kb_lens_stereoset.jsonl").read_text().splitlines()) == 8
    (out / "kb_lens_over_correction.yaml").write_text("task: mine")
    with pytest.raises(ValueError, match=r"kb_lens_over_correction\.yaml' is there but not from"):
        write_tasks(out, [load("over_correction", data)])
    assert (out / "kb_lens_stereoset.yaml").is_file()
    assert (out / "kb_lens_over_correction.yaml").read_text() == "task: mine"


@pytest.mark.parametrize("name", ["README.md", "caution.py", "kb_lens_stereoset.jsonl"])
def test_somebody_elses_file_is_refused(name, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"{name}' is there but not from `kb-lens tasks`"):
        write_tasks(tmp_path / "out", [load("stereoset", data)])
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_what_cannot_be_a_task_is_refused(data, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file' is a file: give a new or empty folder"):
        write_tasks(tmp_path / "file", [load("stereoset", data)])
    other = load_benchmark("plain_text", limit=1)
    with pytest.raises(ValueError, match="no task of plain_text:original; allowed: stereoset, "):
        write_tasks(tmp_path / "out", [other])
    assert not (tmp_path / "out").exists()
