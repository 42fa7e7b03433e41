"""Malformed requests against the real data plane: an error, and nothing has changed."""

from __future__ import annotations

import pytest

from tests.unit.p4runtime.test_fuzz import *  # noqa: F403

pytestmark = pytest.mark.root
