"""What the documents promise exists: paths, links, commands, configs, versions, README example."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from jaxtrain.host import config

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# Modules a document may run that the tests themselves do not need.
TOOLS = {"mypy", "ruff", "sphinx"}
COLUMNS = ["System", "Paper", "Module", "Config", "Test", "Claim", "Status"]


def marked(document: str, name: str) -> str:
    """The text of the fenced block between `<!-- name -->` and `<!-- /name -->`."""
    blocks = re.findall(rf"<!-- {name} -->\n```\w*\n(.*?)```\n<!-- /{name} -->", document, re.S)
    assert len(blocks) == 1, f"expected one block marked {name}, found {len(blocks)}"
    return blocks[0]


def systems() -> list[dict[str, str]]:
    lines = (ROOT / "docs/systems.md").read_text().splitlines()
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    rows = [[cell.strip() for cell in cells] for cells in table]
    assert rows[0] == COLUMNS
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows[2:]]


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def examples(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.S)


def headings(text: str) -> set[str]:
    """Anchors of the headings of a document, in the form links use."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("row", systems(), ids=lambda row: row["System"])
def test_row_of_systems_is_true(row):
    assert all(row.values())
    assert row["Status"] in ("complete", "partial")
    for module in in_backticks(row["Module"]):
        assert importlib.util.find_spec(module), module
    for column in ("Config", "Test"):
        paths = in_backticks(row[column])
        assert paths
        for path in paths:
            assert (ROOT / path).exists(), path
    bibliography = (ROOT / "docs/references.bib").read_text()
    papers = re.findall(r"\]\((\S+?)\)", row["Paper"])
    assert papers
    for paper in papers:
        assert f"{{{paper}}}" in bibliography


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_local_links_resolve(document):
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not anchor or anchor in headings(file.read_text()), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_real_modules_and_configs(document):
    text = document.read_text()
    for module in set(re.findall(r"python3? -m ([\w.]+)", text)) - TOOLS:
        assert importlib.util.find_spec(module), f"python -m {module}"
    for spec in set(re.findall(r"--config[= ]([\w./]+\.py(?::[\w.,=/+-]*\w)?)", text)):
        path, colon, variant = spec.partition(":")
        config.load(f"{ROOT / path}{colon}{variant}")


def test_continuous_integration_runs_the_command_of_the_readme(tmp_path):
    """Runs a copy of .ci/run beside a README whose command only leaves a trace."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_text((ROOT / ".ci/run").read_text())
    readme = (ROOT / "README.md").read_text()
    command = marked(readme, "test-command")
    assert "pytest" in command and command.count("\n") == 1
    trace = "echo ran the 'command of the readme' > trace && exit 7\n"
    (tmp_path / "README.md").write_text(readme.replace(command, trace))
    run = subprocess.run(["bash", tmp_path / ".ci/run"], capture_output=True, text=True)
    assert run.returncode == 7, run.stderr
    assert (tmp_path / "trace").read_text() == "ran the command of the readme\n"

    (tmp_path / "README.md").write_text(readme.replace("<!-- test-command -->", ""))
    run = subprocess.run(["bash", tmp_path / ".ci/run"], capture_output=True, text=True)
    assert run.returncode == 1 and "markers" in run.stderr


def test_one_version_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{version}}}" in (ROOT / "README.md").read_text()


def test_every_declared_dependency_has_a_tested_version():
    def name_of(requirement):
        return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    untested = {"brax", "cuda", "playground", "tpu", "wandb"}
    declared = set(map(name_of, project["dependencies"]))
    for extra, requirements in project["optional-dependencies"].items():
        declared |= set() if extra in untested else set(map(name_of, requirements))
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert declared <= {name_of(line) for line in lines if not line.startswith("#")}


@pytest.mark.slow
def test_readme_example_runs():
    import jax
    import jax.numpy as jnp

    from jaxtta.lpn.grids import from_padded

    (code,) = examples("README.md")
    names: dict = {}
    exec(code, names)
    pairs = from_padded(jnp.ones((3, 10, 10, 2), jnp.uint8), jnp.full((3, 2, 2), 10))
    query = jax.tree.map(lambda x: x[:2], pairs.inputs)
    attempts = names["solve"](names["params"], pairs, query, jax.random.key(1))
    assert attempts.cells.shape == (2, 100)
    assert (attempts.shape >= 1).all() and (attempts.shape <= 10).all()


def test_a_learner_from_the_parts_of_ppo_runs():
    """Two updates instead of ten."""
    import jax
    import numpy as np

    code = examples("docs/rl.md")[1]
    assert code.count("range(10)") == 1
    names: dict = {}
    exec(code.replace("range(10)", "range(2)"), names)
    assert names["metrics"]["loss"].shape == (4,) and np.isfinite(names["metrics"]["loss"]).all()
    pairs = zip(*map(jax.tree.leaves, (names["params"], names["carry"][0])), strict=True)
    assert all((old != new).any() for old, new in pairs)


@pytest.mark.slow
def test_ppo_example_runs():
    names: dict = {}
    exec(examples("docs/rl.md")[0], names)
    assert names["state"].num_updates == 10 and names["out"].metrics["episode_return"] > 5


@pytest.mark.slow
def test_learned_rule_example_runs(tmp_path, monkeypatch):
    """Two updates instead of a hundred, with a rule nobody trained."""
    import jax
    import numpy as np

    from jaxrl.meta import rule_files
    from jaxrl.meta.learned_rule import recurrent_rule

    settings = {"num_predictions": 3, "width": 8, "temporal": True}
    eta = recurrent_rule(**settings).init(jax.random.key(2))
    rule_files.save(tmp_path / "rule.npz", eta, settings)
    (code,) = examples("docs/meta_rl.md")
    assert code.count("env.params, 100, ") == 1
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace("env.params, 100, ", "env.params, 2, "), names)
    agent = names["agent"]
    start = names["lifetime"].init_agent(names["setting"], jax.random.key(0), names["env"].params)
    assert agent.num_updates == 2
    for new, old in ((agent.actor, start.actor), (agent.critic, start.critic)):
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
            assert np.isfinite(a).all() and (a != b).any()
