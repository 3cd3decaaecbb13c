"""Two worker processes for the tests of a file."""

import pytest

from experiments.data.arc.pool import Pool


@pytest.fixture(scope="module")
def pool():
    with Pool(2) as workers:
        yield workers
