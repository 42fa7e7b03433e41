"""What an address gives, and to whom."""

from pathlib import Path

from controller.web.sessions import TICKET_S, Rights, Sessions


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_address_works_once() -> None:
    sessions = Sessions(b"key")
    word = sessions.ticket(Rights.OPERATOR)
    cookie = sessions.redeem(word)
    assert sessions.rights(cookie) is Rights.OPERATOR
    assert sessions.redeem(word) is None


def test_an_old_address_works_no_more() -> None:
    clock = Clock()
    sessions = Sessions(b"key", clock)
    word = sessions.ticket(Rights.OPERATOR)
    clock.now += TICKET_S + 1
    assert sessions.redeem(word) is None


def test_a_reader_cannot_make_itself_an_operator() -> None:
    sessions = Sessions(b"key")
    cookie = sessions.redeem(sessions.ticket(Rights.READER))
    assert cookie is not None
    assert sessions.rights(cookie) is Rights.READER
    seal = cookie.partition(".")[2]
    for forged in (f"operator.{seal}", "operator.", "operator", "", "root.x", f"reader.{seal}é", None):
        assert sessions.rights(forged) is None, forged


def test_a_cookie_outlives_the_gateway_but_not_its_key(tmp_path: Path) -> None:
    first = Sessions.kept(tmp_path / "key")
    cookie = first.redeem(first.ticket(Rights.OPERATOR))
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert Sessions.kept(tmp_path / "key").rights(cookie) is Rights.OPERATOR
    (tmp_path / "key").unlink()
    assert Sessions.kept(tmp_path / "key").rights(cookie) is None
