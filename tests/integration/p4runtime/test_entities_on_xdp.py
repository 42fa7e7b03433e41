"""What tests/unit/p4runtime asks of meters, copies, value sets and names, asked of the real data plane."""

from __future__ import annotations

import pytest

from tests.unit.p4runtime.test_entities import *  # noqa: F403

pytestmark = pytest.mark.root
