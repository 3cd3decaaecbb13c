"""What the documents promise exists: paths, names, links, commands, configs, versions, example."""

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxtta
from docs import conf, tables
from docs.tables import evidence, in_backticks, systems
from jaxtrain.host import config
from jaxtrain.host.config import flatten
from tests.source_tree import PRODUCT, ROOT, module_name, sources

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# Modules a document may run that the tests themselves do not need.
TOOLS = {"mypy", "ruff", "sphinx"}
FOLDERS = "|".join((*PRODUCT, "docs", "tests"))


def marked(document: str, name: str) -> str:
    """The text of the fenced block between `<!-- name -->` and `<!-- /name -->`."""
    blocks = re.findall(rf"<!-- {name} -->\n```\w*\n(.*?)```\n<!-- /{name} -->", document, re.S)
    assert len(blocks) == 1, f"expected one block marked {name}, found {len(blocks)}"
    return blocks[0]


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


def test_what_was_shown_is_said_of_every_system():
    assert sorted(row["System"] for row in evidence()) == sorted(r["System"] for r in systems())


@pytest.mark.parametrize("row", evidence(), ids=lambda row: row["System"])
def test_the_command_of_a_system_can_be_given(row):
    """Its module, config, variant and keys exist; flags that are no keys are tested elsewhere."""
    assert all(row.values())
    (command,) = in_backticks(row["Command"])
    python, m, module, *flags = shlex.split(command)
    assert (python, m) == ("python", "-m") and importlib.util.find_spec(module)
    named = {name: value for name, _, value in (flag.partition("=") for flag in flags)}
    if "--config" not in named:
        assert set(named) == {"--workdir"}
        return
    keys = flatten(config.load(f"{ROOT}/{named.pop('--config')}")[0])
    swept = [part.partition("=")[0] for part in named.pop("--sweep", "seed=0").split(";")]
    unknown = {*(name.removeprefix("--config.") for name in named), *swept} - set(keys)
    assert not unknown, unknown


def test_pages_made_from_the_table_of_systems_are_up_to_date():
    stale = [str(path) for path in tables.stale()]
    assert not stale, f"{stale} are stale: run `python -m docs.tables` and commit what it writes."


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of what the pages are made from; returns how to change a file of it."""
    for folder in ("docs", *tables.PACKAGES):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("_build"))
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.setattr(tables, "ROOT", tmp_path)

    def change(path: str, old: str, new: str) -> None:
        text = (tmp_path / path).read_text()
        assert text.count(old) == 1
        (tmp_path / path).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("path", "old", "new", "stale"),
    [
        ("docs/systems.md", "| LAME | [", "| Lame | [", {"README.md", "docs/api.md"}),
        ("jaxtta/images/lame.py", "batch: LAME.", "batch: L.", {"docs/api.md"}),
        ("README.md", "| LAME |", "| Lame |", {"README.md"}),
        (
            "jaxtta/images/__init__.py",
            "    from jaxtta.images.lame import lame as lame\n",
            "",
            {"jaxtta/images/__init__.py"},
        ),
        ("docs/api/jaxtta.images.md", "## lame", "## Lame", {"docs/api/jaxtta.images.md"}),
    ],
)
def test_a_change_makes_pages_stale_until_they_are_written(copied, path, old, new, stale):
    assert not tables.stale()
    copied(path, old, new)
    assert set(map(str, tables.stale())) == stale
    tables.main()
    assert not tables.stale()


def test_a_new_file_and_a_deleted_folder_make_pages_stale(copied, tmp_path):
    (tmp_path / "jaxtta/images/new.py").write_text('"""New. More."""\n')
    shutil.rmtree(tmp_path / "jaxrl/meta")
    changed = {"README.md", "docs/api.md", "docs/api/jaxrl.meta.md", "docs/api/jaxtta.images.md"}
    assert set(map(str, tables.stale())) == changed - {"README.md"}
    tables.main()
    assert "| [new](api/jaxtta.images.md#new) | New. |  |" in (tmp_path / "docs/api.md").read_text()
    assert not (tmp_path / "docs/api/jaxrl.meta.md").exists() and not tables.stale()


@pytest.mark.parametrize(
    ("path", "old"), [("README.md", "<!-- /methods -->"), ("docs/systems.md", "| Claim ")]
)
def test_pages_that_cannot_be_written_say_why(copied, path, old):
    copied(path, old, "")
    with pytest.raises(ValueError, match=path):
        tables.pages()


def test_pages_are_written_without_any_package():
    program = "import sys; from docs import tables; tables.pages(); print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {program}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert not {"jax", "numpy", "jaxtta"} & set(run.stdout.split())


def test_the_readme_lists_every_system_and_the_reference_every_file():
    readme = (ROOT / "README.md").read_text()
    reference = "".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    for row in systems():
        assert readme.count(f"\n| {row['System']} | {row['Paper']} |") == 1
    for module in map(module_name, sources("jaxtrain", "jaxtta", "jaxrl")):
        assert reference.count(f".. automodule:: {module}\n") == 1, module


@pytest.mark.parametrize(
    ("docstring", "page"),
    [
        ("Mean `x` of |a*| in a_.", r"Mean ``x`` of \|a\*\| in a\_."),
        ("`Norm`s and\n`f(\nx)`.", "``Norm``\\ s and\n``f( x)``."),
        ("First.\n\n    f(*x)\n    g\n\nThen *.", "First.\n\n::\n\n    f(*x)\n    g\n\nThen \\*."),
        ("These:\n- one\n  more\n- two\nEnd.", "These:\n\n- one\n  more\n- two\n\nEnd."),
        ("1. one. 2. two,\nand 3. three.", "1. one. 2. two,\nand 3. three."),
        ("Args:\n  x: `y`, any.", "Args:\n  x: ``y``, any."),
    ],
)
def test_docstrings_are_plain_text_to_sphinx(docstring, page):
    assert conf.as_restructured_text(docstring) == page


def holds(module: Path, name: str) -> bool:
    """Whether the file defines or imports `name` at its top."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
        if isinstance(node, ast.alias) and name in (node.asname, node.name):
            return True
    return False


def unknown_names(text: str) -> list[str]:
    """Files and dotted names of this repository that `text` names and that do not exist."""
    paths = re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w/]+\.(?:py|md|json))(?!\w)", text)
    placeholders = ("/x.py", "/NAME.py")
    found = [p for p in paths if not (ROOT / p).exists() and not p.endswith(placeholders)]
    for name in re.findall(rf"`((?:{'|'.join(PRODUCT)})(?:\.\w+)+)(?:\(.*?\))?`", text):
        module, *rest = name.split(".")
        while rest and (tables.path_of(f"{module}.{rest[0]}")).exists():
            module = f"{module}.{rest.pop(0)}"
        file = ROOT / tables.path_of(module)
        file = file / "__init__.py" if file.is_dir() else file
        if rest and not holds(file, rest[0]):
            found.append(name)
    return found


def test_files_and_names_in_documents_and_docstrings_exist():
    texts = {path.relative_to(ROOT): path.read_text() for path in DOCUMENTS}
    log = Path("CHANGELOG.md")
    texts[log] = re.sub(r"### Moved\n.*?(?=\n##)", "", texts[log], flags=re.S)  # names of the past
    texts |= sources(*PRODUCT)
    wrong = {str(path): names for path, text in texts.items() if (names := unknown_names(text))}
    assert not wrong


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("see jaxtta/entropy.py and `jaxtta/images/entropy.py`", ["jaxtta/entropy.py"]),
        ("`jaxtta.images.tent`, `jaxtta.images.tend`", ["jaxtta.images.tend"]),
        ("`jaxtta.entropy`, `jaxtta.images.rmt.warm_up`", ["jaxtta.entropy"]),
        ("`jaxtrain.core.repeat(core, 3)`, `jaxtrain.core.again(3)`", ["jaxtrain.core.again"]),
    ],
)
def test_names_of_nothing_are_found(text, unknown):
    assert unknown_names(text) == unknown


def test_the_method_that_contributing_walks_through_is_as_shown():
    """Every code block there that begins with `# <path>` holds lines of that file; `...` cuts."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    shown = re.findall(r"```\w*\n(?:# |<!-- )(\S+\.\w+)(?: -->)?\n(.*?)```", text, re.S)
    assert len(shown) == 5
    for path, block in shown:
        lines = {line.strip() for line in (ROOT / path).read_text().splitlines()} | {"...", ""}
        wrong = [line for line in block.splitlines() if line.strip() not in lines]
        assert not wrong, f"CONTRIBUTING.md shows lines that {path} does not hold: {wrong}"


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

    ran = "echo ran $PYTEST_ADDOPTS >> trace; echo $JAX_COMPILATION_CACHE_DIR > folders\n"
    (tmp_path / "README.md").write_text(readme.replace(command, ran))
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    folder = "echo $JAX_COMPILATION_CACHE_DIR >> folders"
    python.write_text(f'#!/bin/sh\necho "$@" >> trace; {folder}\n')
    python.chmod(0o755)
    (tmp_path / "trace").unlink()
    subprocess.run(["bash", tmp_path / ".ci/run"], check=True, capture_output=True)
    first, install, tests, *tools = (tmp_path / "trace").read_text().splitlines()
    assert first == "ran --durations=20" and "[dev,docs]" in install
    assert tests.startswith("-m pytest -n 2") and tests.endswith(" -m ci")  # all of the tier
    assert [tool.split()[1] for tool in tools] == ["ruff", "ruff", "mypy", "sphinx"]
    assert "-W" in tools[-1].split()
    (folder,) = set((tmp_path / "folders").read_text().splitlines())
    assert Path(folder).is_absolute() and not Path(folder).exists()

    (tmp_path / "README.md").write_text(readme.replace("<!-- test-command -->", ""))
    run = subprocess.run(["bash", tmp_path / ".ci/run"], capture_output=True, text=True)
    assert run.returncode == 1 and "markers" in run.stderr


def test_one_version_and_one_date_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "jaxtta/__init__.py"
    version = jaxtta.__version__
    assert f'\n__version__ = "{version}"\n' in (ROOT / "jaxtta/__init__.py").read_text()
    log = (ROOT / "CHANGELOG.md").read_text()
    released, date = re.findall(r"^## \[(\d\S*)\] - (\d{4}-\d\d-\d\d)$", log, re.M)[0]
    assert released == version
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\ndate-released: {date}\n" in citation
    assert f"  version = {{{version}}},\n" in (ROOT / "README.md").read_text()


def results() -> list[tuple[str, str, str]]:
    """Paper, result and command of each row of the first table of README.md."""
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", readme.partition("\n## ")[0], re.M)
    return rows[1:]


@pytest.mark.parametrize("row", results(), ids=lambda row: row[0].partition(",")[0])
def test_a_result_in_the_readme_is_stated_on_its_page_with_its_command(row):
    paper, result, command = row
    (link,) = re.findall(r"\]\((docs/\w+\.md)\)", result)
    page = (ROOT / link).read_text()
    numbers = re.findall(r"\d+(?:\.\d+)?", re.sub(r"\(.*?\)", "", result))
    assert numbers
    absent = [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?![\d]|\.\d)", page)]
    assert not absent, f"{link} does not state {absent}"
    bibliography = (ROOT / "docs/references.bib").read_text()
    papers = re.findall(r"\]\((\S+?)\)", paper)
    assert papers and all(f"{{{url}}}" in bibliography for url in papers)
    program, *variants = re.findall(r"python -m [\w.]+|\w+\.py:\w+", command)
    assert program in page
    # The page of images abbreviates its command to M.
    named = [v for v in variants if v in page or f"`M:{v.partition(':')[2]}`" in page]
    assert named == variants


def test_readme_example_runs(capsys):
    (code,) = examples("README.md")
    names: dict = {}
    exec(code, names)
    demonstrations, query, attempts = (names[n] for n in ("demonstrations", "query", "attempts"))
    assert demonstrations.mask.shape == (2,) and demonstrations.mask.all()
    assert demonstrations.inputs.cells[1, :5].tolist() == [4, 0, 5, 6, 0]
    assert demonstrations.outputs.cells[0, :4].tolist() == [3, 2, 1, 0]
    assert demonstrations.outputs.shape.tolist() == [[1, 3], [2, 2]]
    assert query.cells[:, :4].tolist() == [[7, 8, 8, 9]] * 2
    assert query.shape.tolist() == [[2, 2]] * 2
    assert attempts.cells.shape == (2, 100)
    assert (attempts.shape >= 1).all() and (attempts.shape <= 10).all()
    assert capsys.readouterr().out.count("[[") == 2


def test_a_learner_from_the_parts_of_ppo_runs():
    """Two updates instead of ten."""
    import jax
    import numpy as np

    code = examples("docs/rl.md")[2]
    assert code.count("range(10)") == 1
    names: dict = {}
    exec(code.replace("range(10)", "range(2)"), names)
    assert names["metrics"]["loss"].shape == (4,) and np.isfinite(names["metrics"]["loss"]).all()
    pairs = zip(*map(jax.tree.leaves, (names["params"], names["carry"][0])), strict=True)
    assert all((old != new).any() for old, new in pairs)


def test_the_example_of_an_agent_with_memory_runs():
    names: dict = {}
    exec(examples("docs/rl.md")[1], names)
    assert names["state"].num_updates == 3 and 0 <= names["out"].metrics["episode_return"] <= 1


def test_ppo_example_runs():
    names: dict = {}
    exec(examples("docs/rl.md")[0], names)
    assert names["state"].num_updates == 10 and names["out"].metrics["episode_return"] > 5


def test_trajectories_example_runs():
    names: dict = {}
    exec(examples("docs/offline.md")[0], names)
    assert 0 < names["out"].metrics["representation_loss"] < 100


def test_adaptation_example_runs():
    """A network of one block and two small images a batch; every step moves the state."""
    import jax
    import numpy as np

    code = examples("docs/tta_images.md")[0]
    assert code.count("cifar_resnet(20)") == code.count("(3, 64, 32, 32, ") == 1
    names: dict = {}
    small = "ResNet(blocks=(1,), widths=(4,), stem_features=4)"
    code = code.replace("cifar_resnet(20)", small).replace("(3, 64, 32, 32, ", "(3, 2, 8, 8, ")
    exec(code, names)
    assert names["predictions"].shape == (2,) and (names["predictions"] < 10).all()
    old = names["core"].init(names["params"], names["model_state"])
    pairs = zip(*map(jax.tree.leaves, (names["state"].params, old.params)), strict=True)
    assert all(np.isfinite(new).all() and (new != old).any() for new, old in pairs)


def test_segmentation_example_runs():
    """A network of one level and pictures of 4 x 4 pixels; student and teacher move."""
    import jax

    (code,) = examples("docs/tta_dense.md")
    small = {"(2, 16, 24": "(2, 4, 4", "width=8, multipliers=(1, 2)": "width=2, multipliers=(1,)"}
    for old, new in small.items():
        assert old in code
        code = code.replace(old, new)
    names: dict = {}
    exec(code, names)
    before = names["variables"]["params"]
    for after in (names["state"].params, names["model"]):
        pairs = zip(*map(jax.tree.leaves, (after, before)), strict=True)
        assert any((new != old).any() for new, old in pairs)


def test_schedule_example_runs():
    import numpy as np

    (code,) = examples("docs/schedules.md")
    names: dict = {}
    exec(code, names)
    np.testing.assert_allclose(names["rates"](499), 3e-4, rtol=1e-5)
    state = names["optimizer"].init(np.zeros(2, np.float32))
    _, state = names["optimizer"].update(np.ones(2, np.float32), state, np.zeros(2, np.float32))
    assert 0 <= names["schedules"].applied_rate(state)["learning_rate"] < 3e-4


def test_in_context_example_runs(tmp_path, monkeypatch):
    """With a learner that nobody trained, in place of the folder of the command."""
    import jax
    import numpy as np

    from jaxtrain.core import TrainState
    from jaxtrain.host.checkpoint import Checkpoints
    from jaxtta import in_context

    (code,) = examples("docs/in_context.md")
    (line,) = re.findall(r"^sizes = .*$", code, re.M)
    sizes: dict = {}
    exec(line, sizes)
    learner = in_context.transformer(16, 4, 24, **sizes["sizes"])
    params = jax.jit(learner.init)(jax.random.key(3))
    with Checkpoints(tmp_path / "runs/in_context/checkpoints", every=1) as checkpoints:
        checkpoints.maybe_save(1, TrainState(params, ()), {}, {})
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "my_data.npz", x=rng.normal(size=(25, 16)), y=rng.integers(0, 4, 25))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["probabilities"].shape == (5, 4)
    np.testing.assert_allclose(names["probabilities"].sum(-1), 1, rtol=1e-5)


def test_language_model_examples_run():
    """The first compares scores with what was sampled itself; the second begins where it ends."""
    names: dict = {}
    for code in examples("docs/language_models.md"):
        exec(code, names)
    assert names["correct"].dtype == bool
    generated, valid = names["text"].generated, names["text"].valid
    assert generated.any(axis=1).all() and (valid & ~generated).any()


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
