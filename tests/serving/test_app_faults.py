"""What is done to a server: foreign names and pages, slow clients, clients that go, few file handles, weights cut short."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest
from helpers.command_line import run_cli
from helpers.server import FORM, JSON, as_json, ask, form, serving

from mmfeat import Predictor
from mmfeat.common.errors import ConfigError
from mmfeat.common.freed_memory import return_memory_when_freed
from mmfeat.serving.callers import Callers
from mmfeat.serving.connections import most_connections
from mmfeat.serving.gathering import Gatherer
from mmfeat.serving.limits import Limits

BODY = as_json(caption="two dogs")


@pytest.fixture(scope="module")
def port(predictor) -> int:
    with serving(predictor, Limits(seconds=2.0, head_seconds=1.0)) as (port, _):
        yield port


# Host and Origin


@pytest.mark.parametrize(
    ("bound", "allowed", "host", "accepted"),
    [
        ("127.0.0.1", (), "localhost", True),
        ("127.0.0.1", (), "LOCALHOST.:8000", True),
        ("127.0.0.1", (), "127.0.0.1:8000", True),
        ("127.0.0.1", (), "127.0.0.2", True),
        ("127.0.0.1", (), "[::1]:8000", True),
        ("127.0.0.1", (), "evil.example", False),
        ("127.0.0.1", (), "localhost.evil.example", False),
        ("127.0.0.1", (), "127.0.0.1.evil.example:8000", False),
        ("127.0.0.1", (), "10.0.0.5", False),
        ("127.0.0.1", (), "", False),
        ("127.0.0.1", (), "localhost:8000:evil", False),
        ("127.0.0.1", (), "localhost:evil", False),
        ("127.0.0.1", (), "evil.example@localhost", False),
        ("127.0.0.1", ("models.example",), "models.example:8000", True),
        ("127.0.0.1", ("models.example",), "other.example", False),
        ("127.0.0.1", ("*",), "other.example", True),
        ("0.0.0.0", (), "10.0.0.5:8000", True),
        ("::", (), "[fe80::1]:8000", True),
        ("0.0.0.0", (), socket.gethostname(), True),
        ("0.0.0.0", (), "evil.example", False),
        ("my.example", (), "my.example:8000", True),
    ],
)
def test_names_a_server_answers_to(bound, allowed, host, accepted):
    assert Callers(bound, allowed).answers_to(host) is accepted


@pytest.mark.parametrize(
    ("allowed", "headers", "status"),
    [
        ((), {}, None),
        ((), {"Origin": "http://localhost:8000"}, None),
        ((), {"Origin": "https://localhost:8000"}, None),  # behind something that speaks TLS
        ((), {"Origin": "http://localhost:3000"}, 403),
        ((), {"Origin": "http://evil.example"}, 403),
        ((), {"Origin": "http://localhost:8000.evil.example"}, 403),
        ((), {"Origin": "http://evil@localhost:8000"}, 403),
        ((), {"Origin": "null"}, 403),
        ((), {"Origin": ""}, 403),
        ((), {"Origin": "http://[::1"}, 403),
        ((), {"Sec-Fetch-Site": "cross-site"}, 403),
        ((), {"Sec-Fetch-Site": "same-origin"}, None),
        (("http://localhost:3000/",), {"Origin": "http://localhost:3000"}, None),
        (("http://localhost:3000",), {"Origin": "https://localhost:3000"}, 403),
        (("*",), {"Origin": "null"}, None),
    ],
)
def test_pages_that_may_post(allowed, headers, status):
    given = [(b"host", b"localhost:8000"), *((k.lower().encode(), v.encode()) for k, v in headers.items())]
    refused = Callers(origins=allowed).refusal("POST", given)
    assert (refused and refused[0]) == status


def test_names_and_origins_that_are_none_are_said(exported):
    for wrong in ("http://models.example", "models.example:80", "a/b", ""):
        with pytest.raises(ConfigError, match="--allow-host"):
            Callers(hosts=[wrong])
    for wrong in ("models.example", "http://models.example/page", "ftp://models.example", "null"):
        with pytest.raises(ConfigError, match="--allow-origin"):
            Callers(origins=[wrong])
    done = run_cli("serve", str(exported), "--allow-origin", "example.org", cwd=exported, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_foreign_name_or_page_gets_one_line_and_nothing_is_computed(port, predictor, monkeypatch):
    monkeypatch.setattr(Predictor, "prepare", lambda *_: pytest.fail("computed"))
    for headers, status, says in [
        ({"Host": "evil.example"}, 421, "--allow-host evil.example"),
        ({"Origin": "http://evil.example"}, 403, "--allow-origin http://evil.example"),
    ]:
        for body, kind in [(BODY, JSON), (form(caption="x"), FORM), (form(bytes(300_000)), FORM)]:
            found, answer, got = ask(port, body, {**kind, **headers})
            assert found == status
            assert says in answer["detail"]
            assert answer["detail"].isprintable()
            assert not [name for name in got if name.lower().startswith("access-control")]
        for path in ("/", "/health", "/docs", "/openapi.json", "/nothing"):
            assert ask(port, None, headers, "GET", path)[0] == status


def test_an_allowed_page_may_read_the_answer_and_ask_beforehand(predictor):
    from mmfeat.workflows import serve

    callers = Callers("127.0.0.1", (), ["http://localhost:3000"])
    with pytest.MonkeyPatch.context() as patch:
        made = serve.make_server
        patch.setattr("helpers.server.make_server", lambda p, limits: made(p, limits, callers=callers))
        with serving(predictor, Limits()) as (port, _):
            page = {"Origin": "http://localhost:3000"}
            status, _, headers = ask(port, BODY, {**JSON, **page})
            assert (status, headers["access-control-allow-origin"]) == (200, page["Origin"])
            connection = HTTPConnection("127.0.0.1", port)
            asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
            connection.request("OPTIONS", "/predict", headers={**page, **asking})
            assert connection.getresponse().status == 200
            connection.close()
            assert ask(port, BODY, {**JSON, "Origin": "http://localhost:3001"})[0] == 403


# Clients that go


def test_what_is_not_wanted_any_more_is_neither_prepared_nor_run():
    hold, running, prepared, ran = threading.Event(), threading.Event(), [], []

    def run(items):
        running.set()
        hold.wait(10)
        ran.extend(items)
        return items

    gatherer = Gatherer(lambda asked: prepared.append(asked) or asked, run, max_batch=4)
    first = gatherer.submit(0)
    assert running.wait(10)
    rest = [gatherer.submit(i) for i in range(1, 9)]
    while gatherer._preparing:
        time.sleep(0.001)
    assert all(future.cancel() for future in rest[:7])  # though they are prepared
    hold.set()
    assert (first.result(10), rest[7].result(10)) == (0, 8)
    gatherer.close()
    assert ran == [0, 8]


def test_a_request_whose_client_has_gone_is_not_computed(predictor, monkeypatch):
    hold, inside, encoded = threading.Event(), threading.Event(), []
    predict = Predictor.predict_prepared

    def slow(self, items, thresholds=None):
        encoded.append(len(items))
        inside.set()
        hold.wait(20)
        return predict(self, items, thresholds)

    monkeypatch.setattr(Predictor, "predict_prepared", slow)
    with serving(predictor, Limits()) as (port, service):
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
        first: Future = Future()
        thread = threading.Thread(target=lambda: first.set_result(ask(port, BODY, JSON)))
        thread.start()
        assert inside.wait(20)
        with ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.sendall(head.encode() + BODY)
            until(lambda: service.waiting == 21)
        until(lambda: service.waiting == 1)  # the places of those that have gone are free at once
        hold.set()
        thread.join(20)
        assert first.result()[0] == 200
        assert ask(port, BODY, JSON)[0] == 200
        assert encoded == [1, 1]
        assert service.answered == 2


def until(holds, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


# Slow clients, many connections


@pytest.mark.parametrize(
    "sent", [b"", b"POST /predict HT", b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-A: "], ids=range(3)
)
def test_a_head_that_does_not_come_ends_the_connection(port, sent):
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(sent)
        slow.settimeout(20)
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
            "detail": "the head of the request took more than 1 s to arrive"
        }


def test_a_head_that_comes_byte_by_byte_ends_too_and_so_does_the_second_of_a_connection(port):
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(20)
        slow.sendall(whole)
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        start, gone = time.monotonic(), False
        while not gone and time.monotonic() < start + 15:
            try:
                slow.sendall(b"G")
                time.sleep(0.2)
            except OSError:
                gone = True
        assert gone
    with socket.create_connection(("127.0.0.1", port)) as steady:  # a slow body has its own limit, a whole head no more
        steady.settimeout(20)
        steady.sendall(
            f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(BODY)}\r\n\r\n".encode()
        )
        time.sleep(1.3)
        steady.sendall(BODY)
        assert steady.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.fixture
def few_handles(exported):
    """A server in a process of its own that may open few files; gives its port and the process."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (130, 130));"
        f"sys.argv = ['mmfeat', 'serve', {str(exported)!r}, '--port', '0']; from mmfeat.cli import main; main()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        said = []
        for line in server.stderr:  # it measures engines before it serves
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/predict", line):
                break
        else:
            pytest.fail("".join(said))
        yield int(found.group(1)), server
        if server.poll() is None:
            server.terminate()
            server.communicate(timeout=60)


@pytest.mark.slow
def test_more_connections_than_file_handles_are_refused_and_it_goes_on(few_handles):
    port, server = few_handles
    statuses = []
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(200)]
        for client in clients:
            try:
                client.sendall(b"POST")
            except OSError:
                continue
        for client in clients[-20:]:
            try:
                statuses.append(client.recv(4096)[:12])
            except OSError:
                statuses.append(b"")
    assert b"HTTP/1.1 503" in statuses
    until(lambda: _answers(port), 30)
    for _ in range(3):
        assert ask(port, form(bytes(2_000_000), caption="x"), FORM)[0] in (422, 503)  # an upload lies in a file
    assert ask(port, BODY, JSON)[0] == 200
    server.terminate()
    _, err = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "Traceback" not in err


def _answers(port: int) -> bool:
    try:
        return ask(port, BODY, JSON)[0] == 200
    except OSError:
        return False


def test_connections_follow_the_limit_of_file_handles():
    assert most_connections() >= 4


# What lies on the disk


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncate", "remove", "overwrite"])
def test_files_that_change_while_they_are_served_change_nothing(exported, tmp_path, how):
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    script = (
        "import sys, pathlib; from mmfeat import Predictor; p = Predictor.load(sys.argv[1]);"
        "a = p.predict(captions='two dogs').probabilities\n"
        "for f in pathlib.Path(sys.argv[1]).rglob('*'):\n"
        "    if f.is_file():\n"
        "        {'truncate': lambda: open(f, 'r+b').truncate(0), 'remove': f.unlink,"
        " 'overwrite': lambda: open(f, 'r+b').write(bytes(f.stat().st_size))}[sys.argv[2]]()\n"
        "assert p.predict(captions='two dogs').probabilities == a; print('same')"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder), how], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "same"), done.stderr


def test_tensors_that_were_read_do_not_lie_in_the_file(tmp_path):
    """A mapped file that is cut short kills the process; TF-IDF keeps the very tensor that was read."""
    import torch
    from safetensors.torch import save_file

    from mmfeat.encoders.weights import read_state

    file = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(100_000)}, file)
    read = read_state(file)
    os.truncate(file, 0)
    maps = Path("/proc/self/maps")
    if maps.is_file():
        assert str(file) not in maps.read_text()
    assert float(read["a"].sum()) == 100_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_goes_back_to_the_system():
    script = (
        "import sys; from mmfeat.common.freed_memory import return_memory_when_freed\n"
        "if sys.argv[1] == 'yes': print(return_memory_when_freed())\n"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "import ctypes; c = ctypes.CDLL(None); c.malloc.restype = ctypes.c_void_p; c.free.argtypes = [ctypes.c_void_p]\n"
        "c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]\n"
        "def take(n):\n    p = c.malloc(n); c.memset(p, 1, n); return p\n"
        "c.free(take(30 << 20)); before = rss()\n"  # raises glibc's own thresholds
        "held = [(take(20 << 20), take(100_000)) for _ in range(5)]\n"
        "for large, _ in held: c.free(large)\n"
        "print((rss() - before) >> 20)"
    )
    found = [
        subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, timeout=60).stdout.split()
        for how in ("yes", "no")
    ]
    if found[0][0] == "True":
        assert int(found[0][1]) < 5
        assert int(found[1][0]) > 50  # what happens without


def test_another_c_library_is_no_error(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda *_: object())
    assert return_memory_when_freed() is False
