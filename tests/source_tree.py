"""The files of this repository as text, for tests that read them instead of running them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("jaxtrain", "jaxtta", "jaxrl", "experiments", "configs", "benchmarks")


def sources(*folders: str) -> dict[Path, str]:
    """Path below the root -> text of every Python file in `folders`."""
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT): path.read_text() for path in files}


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
