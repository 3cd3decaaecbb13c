"""Where tests look for real data and pretrained weights; they skip, visibly, what is not there."""

import os
from pathlib import Path

DATA = Path(os.environ.get("JAXTTA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
