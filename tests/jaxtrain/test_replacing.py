"""Files appear whole or not at all, and nothing in the product writes one in another way."""

import ast
from pathlib import Path

import pytest

from jaxtrain.host import files
from jaxtrain.replacing import replacing
from tests.source_tree import sources

# Functions that write, whatever they belong to; `np.save` and the modes of `open` are told apart.
WRITERS = {
    *("write_text", "write_bytes", "savefig", "imsave", "savez", "savez_compressed", "savetxt"),
    *("tofile", "save_file", "to_csv", "dump"),
}
# Function -> why it may write as it does.
EXCEPTED = {
    "jaxtrain/host/metrics.py:Writer.__init__": "lines are added, and a torn last one is dropped",
    "jaxtrain/host/workdir.py:claimed": "a lock holds nothing",
    "jaxrl/meta/rule_files.py:_write": "an open file that `replacing` gives",
    "jaxtrain/host/arrays.py:_save_npz": "called with the name that `replacing` gives",
    "jaxtrain/host/arrays.py:_save_safetensors": "called with the name that `replacing` gives",
    "experiments/data/arc/pool.py:Pool._call": "a pipe to a process",
    "experiments/data/arc/worker.py:main": "a pipe to a process",
}


def is_write(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    texts = [
        node.value
        for node in (*call.args, *(keyword.value for keyword in call.keywords))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    if name in ("open", "fdopen", "ZipFile", "GzipFile"):
        return any(len(x) < 4 and set(x) & set("wax+") for x in texts)
    if ast.unparse(call.func) in ("write_text", "files.write_text"):  # the one writer of text
        return False
    return name in WRITERS or ast.unparse(call.func) == "np.save"


def parts_of(node: ast.With) -> list[str]:
    """The names under which `replacing` gives files to a block."""
    return [
        item.optional_vars.id
        for item in node.items
        if isinstance(item.context_expr, ast.Call)
        and getattr(item.context_expr.func, "id", "") == "replacing"
        and isinstance(item.optional_vars, ast.Name)
    ]


def unguarded(path: Path, source: str) -> list[str]:
    """`file:function` of every call that writes something else than a file from `replacing`."""
    found = []

    def visit(node: ast.AST, owner: tuple[str, ...], parts: list[str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            owner = (*owner, node.name)
        if isinstance(node, ast.With):
            parts = [*parts, *parts_of(node)]
        if isinstance(node, ast.Call) and is_write(node):
            file = node.func.value if isinstance(node.func, ast.Attribute) else None
            given = [ast.unparse(x) for x in (file, *node.args[:1]) if x is not None]
            if not set(given) & set(parts):
                found.append(f"{path}:{'.'.join(owner)}")
        for child in ast.iter_child_nodes(node):
            visit(child, owner, parts)

    visit(ast.parse(source), (), [])
    return found


def test_a_file_is_replaced_at_the_end_and_only_then(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    files.write_text(path, "old")
    with pytest.raises(OSError, match="full"), replacing(path) as part:
        part.write_text("ne")
        assert path.read_text() == "old" and part.suffix == ".txt"
        raise OSError("full")
    assert [file.name for file in path.parent.iterdir()] == ["x.txt"] and path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"


def test_every_file_is_written_so():
    tree = sources("jaxtrain", "jaxtta", "jaxrl", "experiments", "configs")
    found = {place for path, source in tree.items() for place in unguarded(path, source)}
    assert not found - {*EXCEPTED}, "write by jaxtrain.replacing, or jaxtrain.host.files and arrays"
    assert not {*EXCEPTED} - found, "take out of EXCEPTED"


@pytest.mark.parametrize(
    ("source", "is_guarded"),
    [
        ("open(path, 'w')", False),
        ("open(path, mode='ab')", False),
        ("path.open('x')", False),
        ("os.fdopen(number, 'wb')", False),
        ("zipfile.ZipFile(path, 'w')", False),
        ("path.write_text(text)", False),
        ("path.write_bytes(text)", False),
        ("figure.savefig(path, format='png')", False),
        ("np.save(path, x)", False),
        ("np.savez(path, x=x)", False),
        ("json.dump(x, file)", False),
        ("with replacing(path) as part:\n    np.save(other, x)", False),
        ("with replacing(path) as part:\n    pass\npart.write_text(x)", False),
        ("with replacing(path) as part:\n    np.savez(part, x=x)", True),
        ("with replacing(path) as part, style():\n    part.write_text(x)", True),
        ("with open(path) as file:\n    file.read()", True),
        ("path.open('rb')", True),
        ("training.save(run)", True),
        ("json.dumps(x)", True),
        ("files.write_text(path, text)", True),
    ],
)
def test_a_write_past_it_is_found(source, is_guarded):
    body = source.replace("\n", "\n    ")
    found = unguarded(Path("a.py"), f"def f():\n    {body}")
    assert found == ([] if is_guarded else ["a.py:f"])
