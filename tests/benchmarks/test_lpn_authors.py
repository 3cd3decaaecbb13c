"""What the comparison with the authors' code refuses, and its own parts on a stand-in."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import lpn_authors, timing
from jaxtta.lpn import Block, Config, Grid, Pairs

STAND_IN = {
    "utils": """
import types
TransformerLayerConfig = EncoderTransformerConfig = DecoderTransformerConfig = (
    lambda **given: types.SimpleNamespace(**given)
)
""",
    "transformer": "EncoderTransformer = DecoderTransformer = lambda config: config\n",
    "lpn": "import types, huggingface_hub\nLPN = lambda **given: types.SimpleNamespace(**given)\n",
}
SIZES = Block(num_layers=3, num_heads=2, head_dim=4, mlp_factor=0.5)
CONFIG = Config(2, 3, 5, SIZES, SIZES)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("src", "src.models", *(f"src.models.{name}" for name in STAND_IN)):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    (tmp_path / "src" / "models").mkdir(parents=True)
    for name, text in STAND_IN.items():
        (tmp_path / "src" / "models" / f"{name}.py").write_text(text)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "src"]:
        del sys.modules[name]


def test_a_folder_that_is_no_clone_or_cannot_be_imported_is_refused(folder, capsys, monkeypatch):
    (folder / "src" / "models" / "lpn.py").write_text("import no_such_package\n")
    with pytest.raises(ValueError, match="cannot be imported: No module named 'no_such_package'"):
        lpn_authors.load(str(folder))
    (folder / "src" / "models" / "lpn.py").unlink()
    monkeypatch.setattr(sys, "argv", ["lpn_authors", f"--authors={folder}"])
    monkeypatch.setattr(timing.sys.stdout, "reconfigure", lambda **_: None, raising=False)
    with pytest.raises(SystemExit, match="2"):
        lpn_authors.main()
    said = capsys.readouterr().err
    assert "has no src/models/lpn.py; name a clone of https://github.com/clement-bonnet/lpn" in said


def test_their_network_has_our_sizes(folder):
    model = lpn_authors.network(lpn_authors.load(str(folder)), CONFIG)
    for side in (model.encoder, model.decoder):
        assert (side.num_layers, side.max_rows, side.max_cols) == (3, 2, 3)
        layer = side.transformer_layer
        assert (layer.num_heads, layer.emb_dim_per_head, layer.mlp_dim_factor) == (2, 4, 0.5)
    assert model.encoder.latent_dim == 5 and model.encoder.variational


def test_grids_in_their_layout():
    cells = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6)
    shape = np.broadcast_to(np.array([2, 3], np.int32), (2, 4, 2))
    other = Grid(jnp.asarray(cells + 100), jnp.asarray(shape))
    pairs = Pairs(Grid(jnp.asarray(cells), jnp.asarray(shape)), other, jnp.ones((2, 4), bool))
    grids, shapes = lpn_authors.padded(pairs, CONFIG)
    assert grids.shape == (2, 4, 2, 3, 2) and shapes.shape == (2, 4, 2, 2)
    assert grids[1, 2, 1, 0, 1] == cells[1, 2, 3] + 100 and grids[1, 2, 1, 0, 0] == cells[1, 2, 3]
    assert shapes[0, 0].tolist() == [[2, 2], [3, 3]]


def test_both_sides_are_compiled_and_compared(capsys, monkeypatch):
    spent = {"theirs": timing.Spent(6.0, 3.0), "ours": timing.Spent(2.0, 1.5)}
    in_turns = timing.in_turns
    monkeypatch.setattr(timing, "in_turns", lambda *given: (spent, in_turns(*given)[1]))
    sides = [lpn_authors.compiled(lambda x, n=n: x * n, (jnp.ones(3),)) for n in (2, 3)]
    results = lpn_authors.compare("triples", *sides, rounds=2, least=0.5)
    assert results["theirs"].sum() == 6 and results["ours"].sum() == 9
    first, *compiling = capsys.readouterr().out.splitlines()
    assert first.startswith("triples: theirs ")
    assert first.endswith("ratio 3.00 (CPU 2.00), at the floor it would be 6.0")
    assert [line.split(":")[0] for line in compiling] == ["  compiling theirs", "  compiling ours"]
