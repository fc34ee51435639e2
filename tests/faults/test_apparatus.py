"""What the fault matrix is made of: a checker that overlooks what is wrong, or a fault that is none, would prove nothing."""

from __future__ import annotations

import errno
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.checking import judge_audiences, judge_counts, judge_reads, longest_wait_s, timelines
from tests.faults.journal import Journal, Read, Record, Write, read_journal
from tests.faults.proxy import HELLO, MAGIC, Proxy, Rule, listeners
from tests.faults.shim import EVERYONE, Kind, Shim

NEVER = float("inf")


def record(*writes: Write) -> Record:
    return Record("producer", list(writes))


def test_a_count_below_what_was_acknowledged_is_lost_and_one_above_what_was_sent_doubled() -> None:
    written = [record(Write(1.0, {"a": 2, "b": 1}, 2.0), Write(3.0, {"a": 1}, 4.0))]
    assert judge_counts({"a": 3, "b": 1}, written)[1] == []
    lost, wrong = judge_counts({"a": 2, "b": 1}, written)
    assert (lost.lost, lost.doubled, len(wrong)) == (1, 0, 1)
    doubled, wrong = judge_counts({"a": 3, "b": 2}, written)
    assert (doubled.lost, doubled.doubled, len(wrong)) == (0, 1, 1)


def test_a_write_that_nobody_knows_the_end_of_is_there_whole_or_not_at_all() -> None:
    written = [record(Write(1.0, {"a": 2}, 2.0), Write(3.0, {"a": 5}, NEVER))]
    assert judge_counts({"a": 2}, written)[1] == judge_counts({"a": 7}, written)[1] == []
    assert judge_counts({"a": 4}, written)[1] == ["a has 4; acknowledged 2, possible [2, 7]"]


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (Read(2.5, 2.6, {"a": 1}, True), "acknowledged 2"),  # stale
        (Read(0.2, 0.5, {"a": 1}, True), "sent 0"),  # from the future
        (Read(1.5, 2.2, {"a": 0}, True), "told before 2"),  # back behind what it was told
        (Read(2.5, 2.6, {"a": 2}, False), "half an event"),
    ],
)  # fmt: skip
def test_a_wrong_read_is_noticed(read: Read, what: str) -> None:
    lines = timelines([record(Write(1.0, {"a": 2}, 2.0))])
    right = Read(1.1, 1.3, {"a": 2}, True)
    assert judge_reads(Record("reader", reads=[right]), lines) == []
    assert [what in text for text in judge_reads(Record("reader", reads=[right, read]), lines)] == [True]


def test_a_read_beside_a_write_may_see_it_or_not() -> None:
    lines = timelines([record(Write(1.0, {"a": 2}, 2.0))])
    reads = [Read(0.9, 1.5, {"a": 0}, True), Read(0.9, 1.6, {"a": 2}, True), Read(2.1, 2.2, {"a": 2}, True)]
    assert judge_reads(Record("reader", reads=reads), lines) == []


def test_an_audience_is_compared_with_a_count_by_hand() -> None:
    hits = {"a": 5, "b": 1}
    assert judge_audiences(hits, {1: {"a", "b"}, 5: {"a"}}) == []
    assert len(judge_audiences(hits, {1: {"a"}})) == len(judge_audiences(hits, {5: {"a", "b"}})) == 1


def test_the_longest_wait_is_of_calls_that_were_under_way() -> None:
    calls = [Write(0.0, {}, 9.0), Write(10.0, {}, 13.0), Write(11.0, {}, NEVER), Write(12.5, {}, 20.0)]
    assert longest_wait_s([record(*calls)], 10.0, 12.0) == 3.0


def test_a_journal_knows_what_was_answered_and_leaves_out_a_line_that_was_torn(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "caller.jsonl")
    answered, unknown = journal.sending(["a", "a", "b"]), journal.sending(["b"])
    journal.took(answered)
    journal.saw("r", journal.reading(["a"]), {"a": {"hits": 2, "weight": 6, "by_key": {"k": 2}, "day": 2}})
    with (tmp_path / "caller.jsonl").open("a") as file:
        file.write('["ok", ' + json.dumps(unknown))
    found = read_journal(tmp_path / "caller.jsonl")
    assert [(write.events, write.ended < NEVER) for write in found.writes] == [({"a": 2, "b": 1}, True), ({"b": 1}, False)]
    assert [(read.hits, read.is_whole) for read in found.reads] == [({"a": 2}, True)]
    assert Journal(tmp_path / "caller.jsonl").sending(["a"]) > unknown


# --- faults that are some -------------------------------------------------------------------------------------------------

with_shim = pytest.mark.skipif(not Shim.is_possible(), reason="there is no C compiler")
CALLS = """
import os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
def outcome(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
for _ in sys.stdin:
    began = time.monotonic()
    print(outcome(lambda: os.write(file, b"x")), outcome(lambda: os.fsync(file)), time.time(), time.monotonic() - began, flush=True)
"""


@with_shim
def test_the_shim_makes_system_calls_of_one_process_fail_and_lie(tmp_path: Path) -> None:
    shim = Shim(tmp_path)
    (tmp_path / "shard-0").mkdir()
    command = [sys.executable, "-c", CALLS, str(tmp_path / "shard-0" / "log")]
    process = subprocess.Popen(command, env={**os.environ, **shim.environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None

    def called() -> tuple[int, int, float, float]:
        print(file=process.stdin, flush=True)
        written, synced, clock, took = process.stdout.readline().split()
        return int(written), int(synced), float(clock), float(took)

    try:
        assert called()[:2] == (0, 0)
        shim.set(process.pid + 1, Kind.NO_SPACE)  # another's
        assert called()[:2] == (0, 0)
        shim.set(process.pid, Kind.NO_SPACE)
        shim.set(process.pid, Kind.SYNC_ERROR)
        assert called()[:2] == (28, 5)
        shim.clear(Kind.NO_SPACE, Kind.SYNC_ERROR)
        before = called()[2]
        shim.set(EVERYONE, Kind.CLOCK_OFFSET_MS, -3_600_000)
        shim.set(process.pid, Kind.SYNC_DELAY_MS, 200)
        _, synced, clock, took = called()
        assert (synced, took >= 0.2, before - 3_600 <= clock < before - 3_500) == (0, True, True)
        shim.clear(*Kind)
        assert called()[2] >= before
    finally:
        process.kill()


class Upper(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(100):
            self.request.sendall(data.upper())


ASK = """
import socket, sys
connection = None
for line in sys.stdin:
    try:
        connection = connection or socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
        connection.sendall(b"abc")
        answer = connection.recv(100).decode() or "closed"
    except OSError as error:
        answer = type(error).__name__
    connection = connection if answer == "ABC" else None
    print(answer, flush=True)
"""


@pytest.fixture
def server() -> Iterator[socketserver.ThreadingTCPServer]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upper) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@with_shim
def test_the_proxy_holds_and_cuts_what_flows_from_one_process_to_another(tmp_path: Path, server: socketserver.ThreadingTCPServer) -> None:
    shim, names = Shim(tmp_path), {os.getpid(): "server"}
    proxy = Proxy(lambda pid: names.get(pid, "caller"))
    shim.set(EVERYONE, Kind.PROXY_PORT, proxy.port)
    process = subprocess.Popen(
        [sys.executable, "-c", ASK, str(server.server_address[1])],
        env={**os.environ, **shim.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    answers = process.stdout

    def ask() -> None:
        print(file=process.stdin, flush=True)

    def answer() -> str:
        ask()
        return answers.readline().strip()

    try:
        assert answer() == "ABC"
        assert proxy.carried == {("caller", "server"): 3, ("server", "caller"): 3}
        proxy.rule(Rule("server", "caller", "hold"))  # the request arrives, the reply does not
        ask()
        while proxy.carried["caller", "server"] < 6:
            pass
        assert proxy.carried["server", "caller"] == 3
        proxy.rule()
        assert answers.readline().strip() == "ABC"
        proxy.rule(Rule("caller", "server", "cut"))
        assert {answer(), answer()} <= {"closed", "ConnectionResetError", "BrokenPipeError", "ConnectionRefusedError"}
        assert answer() == "ConnectionRefusedError"
        proxy.rule(Rule("caller", "shard-", "cut"))  # not about these
        assert answer() == "ABC"
    finally:
        process.kill()
        proxy.end()


def test_the_proxy_looks_for_who_listens_only_where_somebody_does(monkeypatch: pytest.MonkeyPatch, server: socketserver.ThreadingTCPServer) -> None:
    looks = [0]

    def counted() -> dict[int, int]:
        looks[0] += 1
        return listeners()

    monkeypatch.setattr("tests.faults.proxy.listeners", counted)
    proxy = Proxy(lambda pid: str(pid))

    def tried(port: int) -> int:
        """What the shim of this process would be told: 0, or an error."""
        with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
            connection.sendall(HELLO.pack(MAGIC, os.getpid(), socket.inet_aton("127.0.0.1"), port.to_bytes(2, "big")))
            return connection.recv(1)[0]

    try:
        with socket.socket() as nobodys:
            nobodys.bind(("127.0.0.1", 0))
            assert [tried(nobodys.getsockname()[1]) for _ in range(3)] == [errno.ECONNREFUSED] * 3
        assert looks == [0]
        assert [tried(server.server_address[1]) for _ in range(3)] == [0] * 3
        assert looks == [1]
    finally:
        proxy.end()
