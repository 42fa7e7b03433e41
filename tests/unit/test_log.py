import io
import logging
import re

import pytest

from duet_p4 import log

pytestmark = pytest.mark.usefixtures("restored_root")


def test_a_line_has_time_level_node_and_message() -> None:
    stream = io.StringIO()
    log.setup("tor-1-1", stream=stream)
    logging.getLogger("duet_p4.switch_agent.agent").info("announces %s", "10.0.0.1")
    expected = (
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6} INFO    tor-1-1 switch_agent\.agent: announces 10\.0\.0\.1\n"
    )
    assert re.fullmatch(expected, stream.getvalue()), stream.getvalue()


def test_a_second_setup_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.setup("launcher", stream=first)
    log.setup("smux-1", "WARNING", second)
    logging.getLogger("duet_p4.smux").info("not heard")
    logging.getLogger("duet_p4.smux").warning("heard")
    assert first.getvalue() == ""
    assert second.getvalue().count("smux-1 smux: heard") == 1


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(ValueError, match="'LOUD'"):
        log.setup("n", "LOUD")
