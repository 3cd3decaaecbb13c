"""What a run folder says of its own command, so that the folder alone is enough to go on with it.

`config.json` holds every value that the run was started with, and names the config file, which
holds the rules of the keys and the defaults of those that have come since. That file is Python and
the folder may be a stranger's, so only files of `configs/` are run, whatever the folder names.
"""

from pathlib import Path

from ml_collections import ConfigDict

from jaxtrain.host.config import UsageError, flatten, load, set_value
from jaxtrain.host.workdir import About, read_json


def remembered(folder: str) -> tuple[ConfigDict, About]:
    """The config of the run in `folder`, and what identifies the run.

    Raises:
      UsageError: there is no run, or its config file is not in `configs/` or has other keys by now.
    """
    found = read_json(Path(folder) / "config.json")
    if found is None:
        raise UsageError(
            f"--workdir={folder!r} holds no run yet, so --config is missing; give a config file, "
            "such as --config=configs/x.py:small, or name the folder of a run"
        )
    try:
        about = About(**found)
        named = about.config_file or f"{about.experiment}.py"
        both = [f"configs/{Path(n).name}" for n in (named, f"{about.experiment}.py")]
        values, file = flatten(about.config), next((n for n in both if Path(n).is_file()), None)
    except (TypeError, AttributeError):
        raise UsageError(
            f"{str(Path(folder) / 'config.json')!r} does not say what the run was started with; "
            "restore it, or give --config"
        ) from None
    if file is None:
        raise UsageError(
            f"--workdir={folder!r} was started with {named!r}, and {both[0]} is not in "
            f"{Path.cwd()}; start from the folder of configs/, or give --config"
        )
    config, _ = load(file)
    try:
        for key, value in values.items():
            set_value(config, key, value)
    except UsageError as error:
        raise UsageError(
            f"--workdir={folder!r} was started with settings that {file} no longer takes "
            f"({error}); give --config"
        ) from error
    return config, about._replace(config_file=file)
