"""The xdp switch takes simple_switch_grpc's command line, and says what is wrong with a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from duet_p4.xdp_switch import cli
from duet_p4.xdp_switch.queues import Rate


def test_the_command_line_of_simple_switch_grpc_is_understood() -> None:
    line = (
        "--device-id 7 -i 1@eth1 -i 2@eth2 --no-p4 --log-console -L warn --thrift-port 9090 "
        "-- --grpc-server-addr 127.0.0.1:50051 --cpu-port 510"
    )
    options = cli.parse(line.split())
    assert options == cli.Options(
        device_id=7,
        ports={1: "eth1", 2: "eth2"},
        address="127.0.0.1:50051",
        cpu_port=510,
        config=None,
        p4info=None,
        log_level="WARNING",
        remarks=("--thrift-port: there is no Thrift server, so no simple_switch_CLI: use P4Runtime",),
    )


def test_the_command_lines_of_p4langs_tutorials_are_understood(tmp_path: Path) -> None:
    program = tmp_path / "basic.json"
    program.write_text("{}")
    line = (
        f"-i 1@s1-eth1 -i 2@s1-eth2 --pcap /tutorials/pcaps --nanolog ipc:///tmp/bm-0-log.ipc --device-id 0 "
        f"{program} --log-console --thrift-port 9090 -- --grpc-server-addr 0.0.0.0:50051 --cpu-port 255"
    )
    options = cli.parse(line.split(), compatible=True)
    assert (options.device_id, options.config, options.cpu_port, options.mode) == (0, program, 255, "auto")
    assert [remark.split(":")[0] for remark in options.remarks] == ["--pcap", "--thrift-port"]
    line = "--log-file ss-log --log-flush --dump-packet-data 10000 -i 0@veth0 --no-p4"
    options = cli.parse(line.split(), compatible=True)
    assert options.log_file == Path("ss-log.txt")
    assert [remark.split(":")[0] for remark in options.remarks] == ["--dump-packet-data"]
    line = "--no-p4 --debugger -- --enable-swap --disable-swap --thrift-port 9091 --priority-queues 3"
    remarks = cli.parse(line.split(), compatible=True).remarks
    assert [remark.split(":")[0] for remark in remarks] == [
        "--thrift-port",
        "--debugger",
        "--priority-queues",
    ]


def test_tls_needs_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("")
    files = f"--grpc-server-cert {pem} --grpc-server-key {pem}"
    options = cli.parse(f"--no-p4 -- --grpc-server-ssl {files}".split())
    assert options.tls == cli.Tls(pem, pem, None, False)
    for line in (
        "--no-p4 -- --grpc-server-ssl",
        f"--no-p4 -- --grpc-server-ssl {files} --grpc-server-with-client-auth",
    ):
        with pytest.raises(SystemExit):
            cli.parse(line.split())
    assert "--grpc-server-cacert" in capsys.readouterr().err


def test_the_log_goes_to_the_file_that_was_named(tmp_path: Path) -> None:
    options = cli.parse(f"--no-p4 --log-file {tmp_path / 'log'} --pcap /x".split())
    cli.setup_log(options)
    assert "--pcap: packets in XDP cannot be written" in (tmp_path / "log.txt").read_text()
    with pytest.raises(cli.StartError, match="cannot write the log file /nowhere/log"):
        cli.setup_log(cli.parse(["--no-p4", "--log-file", "/nowhere/log"]))


def test_what_is_left_out_has_simple_switch_grpcs_default() -> None:
    options = cli.parse(["--no-p4"])
    assert (options.device_id, options.ports, options.cpu_port) == (0, {}, None)
    assert options.address == "0.0.0.0:9559"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "--no-p4"),
        ("--no-p4 -i 1", "'1' is not PORT@INTERFACE"),
        ("--no-p4 -i 511@eth1", "'511@eth1'"),
        ("--no-p4 -i x@eth1", "'x@eth1'"),
        ("--no-p4 -i 1@", "'1@'"),
        ("--no-p4 -i 1@eth1 -i 1@eth2", "port 1 is given twice"),
        ("--no-p4 -i 1@eth1 -i 2@eth1", "eth1 is given to two ports"),
        ("--no-p4 --device-id -1", "device-id"),
        ("--no-p4 --device-id x", "'x' is not an integer"),
        ("--no-p4 -- --grpc-server-addr 9559", "'9559' is neither HOST:PORT nor unix:PATH"),
        ("--no-p4 -- --grpc-server-addr :9559", "':9559'"),
        ("--no-p4 -- --grpc-server-addr h:99999", "'h:99999'"),
        ("--no-p4 -- --cpu-port 511", "'511'"),
        ("--no-p4 -i 510@eth1 -- --cpu-port 510", "port 510 is the CPU port"),
        ("missing.json", "there is no file 'missing.json'"),
        ("--no-p4 --frobnicate", "--frobnicate"),
        ("--no-p4 --use-files 3", "--use-files is not possible: packets come from interfaces"),
        ("--no-p4 --xdp-mode fast", "fast"),
    ],
)
def test_a_bad_command_line_is_refused_with_a_reason(capsys, line: str, said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(line.split())
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_program_needs_its_p4info(tmp_path: Path) -> None:
    program = tmp_path / "basic.json"
    program.write_text("{}")
    with pytest.raises(cli.StartError, match=r"basic\.json needs its P4Info.*basic\.p4info\.txtpb"):
        cli.find_p4info(program, None)
    beside = tmp_path / "basic.p4info.txtpb"
    beside.write_text("")
    assert cli.find_p4info(program, None) == beside
    beside.unlink()
    of_p4_utils = tmp_path / "basic_p4rt.txt"
    of_p4_utils.touch()
    assert cli.find_p4info(program, None) == of_p4_utils
    other = tmp_path / "other.txt"
    with pytest.raises(cli.StartError, match=r"other\.txt"):
        cli.find_p4info(program, other)


def test_a_missing_interface_an_old_kernel_and_missing_rights_are_named(monkeypatch) -> None:
    monkeypatch.setattr(cli, "missing_capabilities", list)
    options = cli.parse(["--no-p4", "-i", "1@duet-no-such-if"])
    with pytest.raises(cli.StartError, match=r"port 1: .*no interface duet-no-such-if"):
        cli.check_host(options)
    monkeypatch.setattr(cli, "missing_capabilities", lambda: ["CAP_BPF", "CAP_NET_ADMIN"])
    with pytest.raises(cli.StartError, match="CAP_BPF and CAP_NET_ADMIN missing"):
        cli.check_host(options)
    monkeypatch.setattr(cli.platform, "release", lambda: "5.4.0-generic")
    with pytest.raises(cli.StartError, match=r"kernel 5\.4\.0-generic is too old: 6\.1 or later"):
        cli.check_host(options)


def test_ports_may_have_rates(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--no-p4 -i 1@eth1 -i 2@eth2 --queue-rate 1@20 --queue-rate 2@0.5mbit --queue-depth 10"
    options = cli.parse(line.split())
    assert options.rates == {1: Rate(packets=20), 2: Rate(bits=500_000)}
    assert options.queue_depth == 10
    assert options.rates[1].nanoseconds(1500) == 50_000_000
    assert options.rates[2].nanoseconds(1500) == 24_000_000
    for wrong, told in (
        ("1@0", "'0' is no rate"),
        ("1@fast", "'fast' is no rate"),
        ("x@5", "'x@5' is not PORT@RATE"),
        ("3@5", "--queue-rate names port 3, which has no interface"),
    ):
        with pytest.raises(SystemExit):
            cli.parse(["--no-p4", "-i", "1@eth1", "--queue-rate", wrong])
        assert told in capsys.readouterr().err
