"""What tests/unit/p4runtime asks of the server's logic, asked of the real data plane."""

from __future__ import annotations

import pytest

from tests.unit.p4runtime.test_arrays import *  # noqa: F403
from tests.unit.p4runtime.test_tables import *  # noqa: F403

pytestmark = pytest.mark.root
