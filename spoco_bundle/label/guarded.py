"""The application that the server runs: MONAI Label's own behind the guard; imported in the server's environment."""

from __future__ import annotations

import json
import os

from monailabel.app import app as unguarded

from spoco_bundle.label.guard import Guard
from spoco_bundle.label.server import GUARD_VARIABLE

app = Guard(unguarded, **json.loads(os.environ[GUARD_VARIABLE]))
