"""GitHub's workflows do what the Makefile does, with no more rights than they need."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
MAKEFILE = ROOT / "Makefile"
RIGHTS = {("release.yml", "publish"): {"id-token": "write"}}
"""Jobs that may do more than read the repository: PyPI knows the publisher by a token."""

pytestmark = pytest.mark.skipif(not MAKEFILE.is_file(), reason="not a checkout")


def jobs(path):
    """The jobs of a workflow."""
    return yaml.safe_load(path.read_text())["jobs"]


def commands(job):
    """What a job runs, the entries of its matrix filled in."""
    entries = job.get("strategy", {}).get("matrix", {}).get("include", [{}])
    lines = [step["run"] for step in job["steps"] if "run" in step]
    for entry in entries:
        for line in lines:
            yield re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda name, e=entry: e[name[1]], line)


def targets():
    """The targets that ``make`` lists."""
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(re.findall(r"^make (\S+) +(\S.*)$", shown.stdout, re.MULTILINE))


def test_make_lists_every_target():
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE.read_text(), re.MULTILINE)
    assert sorted(targets()) == sorted(" ".join(phony).split())


def test_there_is_a_workflow_for_changes_and_one_for_releases():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_runs_targets_of_the_makefile(path):
    run = [command for job in jobs(path).values() for command in commands(job)]
    assert run
    for command in run:
        make, target, *_ = command.split()
        assert make == "make"
        assert target in targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_few_rights_and_ends(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {}) == RIGHTS.get((path.name, name), {})
        assert job["timeout-minutes"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_pinned_to_one_version(path):
    used = re.findall(r"uses: (\S+)", path.read_text())
    assert used
    assert [name for name in used if not re.search(r"@v\d+\.\d+\.\d+$", name)] == []


def test_what_passes_at_home_passes_there():
    """All of ``make ci``; what it does on this machine alone is to look for a browser."""
    here = re.search(r"^ci: ([^#]*)", MAKEFILE.read_text(), re.MULTILINE)
    assert here
    ci = {command.split()[1] for job in jobs(WORKFLOWS[0]).values() for command in commands(job)}
    assert set(here[1].split()) - {"browser"} <= ci


@pytest.mark.parametrize("name", ["bug", "wrong_number", "feature", "config"])
def test_a_form_is_yaml_and_names_what_is_here(name):
    text = (ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text()
    form = yaml.safe_load(text)
    fields = [field for field in form.get("body", []) if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    for address in re.findall(r"https://github\.com/[^/\s]+/[^/\s]+", text):
        assert address == repository["Repository"]
    assert all((ROOT / file).is_file() for file in re.findall(r"[A-Z]+\.md", text))
