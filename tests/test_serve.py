"""The server: many requests at once, each with its own answer; malformed ones refused in one line, disturbing nobody."""

from __future__ import annotations

import base64
import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from mmfeat import Predictor
from mmfeat.errors import ConfigError
from mmfeat.serving.gathering import Gatherer
from mmfeat.serving.limits import Limits
from mmfeat.workflows import serve as serving
from mmfeat.workflows.project import Project

BOUNDARY = "boundary"
LIMITS = Limits(megabytes=0.2, megapixels=0.05, caption=500, waiting=300, seconds=2.0)


@pytest.fixture(scope="module")
def predictor(exported) -> Predictor:
    return Predictor.load(exported)


@pytest.fixture(scope="module")
def port(predictor):
    """A server on a free port."""
    listener = serving.bound("127.0.0.1", 0)
    server, _ = serving.make_server(predictor, LIMITS)
    listener.listen(serving.BACKLOG)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(30)
    listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def items(trained) -> list[tuple[bytes, str]]:
    project = Project(trained)
    read = project.reader("image")
    return [(read(row), str(project.manifest.captions[row])) for row in range(40)]


def ask(port: int, body: bytes, kind: str, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", body, {"Content-Type": kind, **headers})
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    return answer.status, found


def form(**fields: str | bytes) -> tuple[bytes, str]:
    parts = b""
    for name, value in fields.items():
        file = '; filename="a.jpg"' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else value.encode()
        parts += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"
        )
    return parts + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


def as_json(**fields) -> tuple[bytes, str]:
    if isinstance(fields.get("image"), bytes):
        fields["image"] = base64.b64encode(fields["image"]).decode()
    return json.dumps(fields).encode(), "application/json"


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("1", (width, height)).save(data, "PNG")
    return data.getvalue()


def same(answer: dict, wanted) -> bool:
    close = answer["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-4)
    opinions = all(answer["opinions"][name] == pytest.approx(one, abs=1e-4) for name, one in wanted.opinions.items())
    return close and opinions and list(answer["opinions"]) == list(wanted.opinions)


BROKEN = [
    (form(image=b"no image"), 422, "image: "),
    (form(), 422, "neither an image nor a caption"),
    (form(caption="  "), 422, "neither an image nor a caption"),
    (form(caption="a", colour="red"), 422, "colour: no such field"),
    (form(caption="a", top_k="0"), 422, "top_k"),
    (form(caption="a", threshold="nan"), 422, "threshold"),
    (form(image="text"), 422, "send a file"),
    (form(caption=b"file"), 422, "send text"),
    (form(caption="x" * 501), 413, "501 characters"),
    (form(image=b"x" * 200_001), 413, "larger than 0.2 MB"),
    (form(image=png(300, 300)), 413, "more than 0.05 megapixels"),
    (form(image=png(20_000, 20_000)), 413, "megapixels"),
    ((form(caption="a")[0][:-8], form()[1]), 400, ""),
    ((b"a", "multipart/form-data"), 400, ""),
    ((b"{", "application/json"), 400, "JSON"),
    ((b"[]", "application/json"), 422, ""),
    ((b"\xff\xfe", "application/json"), 400, ""),
    (as_json(caption=3), 422, "caption"),
    (as_json(image="no base64!"), 422, "not base64"),
    (as_json(image=b"no image"), 422, "image: "),
    ((b"caption=a", "application/x-www-form-urlencoded"), 415, "send multipart/form-data"),
    ((b"a", ""), 415, "send multipart/form-data"),
]


@pytest.mark.parametrize(("request_", "status", "says"), BROKEN)
def test_a_malformed_request_is_refused_in_one_line(port, request_, status, says):
    found, answer = ask(port, *request_)
    assert found == status, answer
    assert says in answer["detail"]
    assert "\n" not in answer["detail"]


def test_two_hundred_at_once_get_their_own_answers(port, items, predictor):
    wanted = predictor.predict(*(list(part) for part in zip(*items, strict=True)))
    words = predictor.predict(None, [caption for _, caption in items])

    def one(i: int) -> bool:
        image, caption = items[i % 40]
        if i % 5 == 4:
            request, status, says = BROKEN[i // 5 % len(BROKEN)]
            found, answer = ask(port, *request)
            return found == status and says in answer["detail"]
        if i % 5 == 3 and caption.strip():
            status, answer = ask(port, *as_json(caption=caption))
            return status == 200 and same(answer, words[i % 40])
        encode = form if i % 2 else as_json
        status, answer = ask(port, *encode(image=image, caption=caption))
        return status == 200 and same(answer, wanted[i % 40]) and answer["labels"] == wanted[i % 40].labels

    with ThreadPoolExecutor(200) as pool:
        assert list(pool.map(one, range(200))) == [True] * 200


def test_top_and_threshold_are_the_requests_own(port, items, predictor):
    image, caption = items[0]
    status, answer = ask(port, *as_json(image=image, caption=caption, top_k=2, threshold=0.0))
    assert status == 200
    assert answer["labels"] == list(predictor.classes)
    assert [one["label"] for one in answer["top"]] == [name for name, _ in predictor.predict(image, caption).top(2)]


def test_a_body_that_lies_about_its_length_or_does_not_come_is_refused(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as lying:
        head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        lying.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert b" 408 " in lying.recv(1000)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as chunked:
        chunked.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(5):
            chunked.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        chunked.sendall(b"0\r\n\r\n")
        assert b" 413 " in chunked.recv(1000)


def test_health_and_description(port, predictor):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    answers = {}
    for path in ("/health", "/openapi.json", "/"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        answers[path] = answer.read()
    connection.close()
    health = json.loads(answers["/health"])
    assert (health["status"], health["model"], health["classes"]) == ("ready", "fm3-1", list(predictor.classes))
    post = json.loads(answers["/openapi.json"])["paths"]["/predict"]["post"]
    assert set(post["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {"200", "413", "422", "503"} <= set(post["responses"])
    assert b"curl" in answers["/"]


def test_a_batch_that_fails_fails_for_the_odd_item_alone():
    def run(items):
        if -1 in items:
            raise ValueError("odd")
        return [item * 2 for item in items]

    gatherer = Gatherer(lambda asked: asked, run, 8)
    futures = [gatherer.submit(i if i != 5 else -1) for i in range(20)]
    for i, future in enumerate(futures):
        if i == 5:
            with pytest.raises(ValueError, match="odd"):
                future.result(10)
        else:
            assert future.result(10) == 2 * i
    gatherer.close()
    with pytest.raises(RuntimeError):
        gatherer.submit(1)


def test_what_comes_at_once_is_one_batch():
    sizes, gate = [], threading.Event()

    def run(items):
        gate.wait(10)
        sizes.append(len(items))
        return items

    gatherer = Gatherer(lambda asked: asked, run, 16)
    futures = [gatherer.submit(i) for i in range(33)]
    gate.set()
    assert [future.result(10) for future in futures] == list(range(33))
    gatherer.close()
    assert max(sizes) <= 16
    assert len(sizes) < 20


def test_too_many_under_way_are_told_to_come_again(predictor, items):
    import asyncio

    from fastapi import HTTPException

    from mmfeat.serving.app import Service

    service = Service(predictor, Limits(waiting=1))
    with service.place(), pytest.raises(HTTPException) as refused, service.place():
        pass
    assert refused.value.status_code == 503
    assert refused.value.headers == {"Retry-After": "1"}
    with service.place():
        assert service.waiting == 1
    asyncio.run(asyncio.to_thread(service.close))


def test_an_address_that_cannot_be_had_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="--port 0 takes a free one"):
            serving.bound("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="Name another"):
        serving.bound("no.such.host.invalid", 80)


def test_without_the_extra_it_says_what_to_install(monkeypatch, exported):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmfeat\[serve\]'"):
        serving.serve(exported)


@pytest.mark.slow
def test_the_command_answers_until_it_is_told_to_end(exported, tmp_path):
    command = [str(Path(sys.executable).with_name("mmfeat")), "serve", str(exported), "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        port = int(line.partition("http://127.0.0.1:")[2].partition("/")[0])
        for _ in range(100):
            try:
                assert ask(port, *as_json(caption="a red circle"))[0] == 200
                break
            except ConnectionError:
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Ended after 1 answer." in out
    assert "Traceback" not in err
