"""The server: many at once, malformed requests, limits, its description, its beginning and end."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from http.client import HTTPConnection

import numpy as np
import pytest
from helpers.command_line import run_cli
from helpers.server import BOUNDARY, FORM, JSON, as_json, ask, form, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmfeat import Predictor
from mmfeat.common.errors import ConfigError
from mmfeat.common.extras import require
from mmfeat.predictor import Prediction
from mmfeat.serving.limits import Limits
from mmfeat.serving.schemas import answer_of
from mmfeat.workflows.serve import bound

SMALL = Limits(megabytes=0.2, megapixels=0.1, caption=50, waiting=300, seconds=1.0)


@pytest.fixture(scope="module")
def port(predictor) -> int:
    with serving(predictor, SMALL) as (port, _):
        yield port


def picture(seed: int, size: int = 40, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size - 7, size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels // (1 + seed % 3))
    image.paste((seed % 256, seed * 7 % 256, seed * 13 % 256), (seed % 20, 3, 30, 25))
    data = io.BytesIO()
    image.save(data, form)
    return data.getvalue()


def same(answer: dict, wanted) -> bool:
    close = answer["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)
    order = list(answer["probabilities"]) == list(wanted.probabilities) and list(answer["opinions"]) == list(
        wanted.unimodal
    )
    opinions = all(
        answer["opinions"][name] == pytest.approx(wanted.unimodal[name], abs=1e-5) for name in wanted.unimodal
    )
    return close and order and opinions and answer["labels"] == wanted.labels


MALFORMED = [
    (b"{", JSON, 400),
    (b"[1]", JSON, 422),
    (b'{"caption": 5}', JSON, 422),
    (b"[" * 100_000, JSON, 400),
    (b'{"caption": "\xff"}', JSON, 400),
    (b'{"caption": "\\ud800"}', JSON, 400),
    (b'{"caption": "x", "threshold": NaN}', JSON, 422),
    (b'{"caption": "x", "top_k": 1e400}', JSON, 422),
    (b"", JSON, 400),
    (b"{}", JSON, 422),
    (as_json(caption=" \n"), JSON, 422),
    (as_json(caption="x", top_k=0), JSON, 422),
    (as_json(caption="x", threshold=1.5), JSON, 422),
    (as_json(caption="x", treshold=0.5), JSON, 422),
    (as_json(caption="x", detail="none"), JSON, 422),
    (form(caption="x", detail="none"), FORM, 422),
    (as_json(image=b"no image"), JSON, 422),
    (b'{"image": "@@@="}', JSON, 422),
    (b'{"image": "\xc3\xa4"}', JSON, 422),
    (form(picture(0)[:200]), FORM, 422),
    (form(b""), FORM, 422),
    (form(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"), FORM, 422),
    (form(caption="x")[:-8], FORM, 400),
    (form(caption="x"), {"Content-Type": "multipart/form-data"}, 400),
    (form(caption="x").replace(b"form-data; ", b"form-data\x00"), FORM, 400),
    (form(caption="x").replace(b"caption", b"image"), FORM, 422),
    (form(caption="x", top_k="many"), FORM, 422),
    (form(caption="x", other="y"), FORM, 422),
    (form(caption="a")[: -len(BOUNDARY) - 6] + form(caption="b"), FORM, 422),
    (b"caption=x", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    (b"caption", {"Content-Type": "\xff/;;=\x01".encode("latin-1").decode("latin-1")}, 415),
    (as_json(caption="x"), {}, 415),
    (as_json(caption="x"), {**JSON, "Content-Encoding": "gzip"}, 415),
    (as_json(caption="x" * 51), JSON, 413),
    (form(caption="x" * 51), FORM, 413),
]


def test_200_at_once_are_answered_each_for_itself_among_malformed_ones(port, predictor):
    images = [picture(i, 30 + i % 9, "JPEG" if i % 2 else "PNG") if i % 20 else None for i in range(200)]
    captions = [f"{i} dogs " + "in a red boat " * (i % 4) if i % 7 or not i % 20 else None for i in range(200)]
    captions = [None if caption is None else caption[:50] for caption in captions]
    everything = threading.Barrier(200 + len(MALFORMED))

    def one(i: int):
        make, headers = (form, FORM) if i % 3 else (as_json, JSON)
        fields = {} if captions[i] is None else {"caption": captions[i]}
        body = make(images[i], **fields)
        everything.wait(60)
        return ask(port, body, headers)

    def bad(i: int):
        everything.wait(60)
        return ask(port, *MALFORMED[i][:2])

    with ThreadPoolExecutor(200 + len(MALFORMED)) as pool:
        answers = [pool.submit(one, i) for i in range(200)]
        refusals = [pool.submit(bad, i) for i in range(len(MALFORMED))]
        answers, refusals = [a.result() for a in answers], [r.result() for r in refusals]
    assert [status for status, _, _ in answers] == [200] * 200
    wanted = predictor.predict(images, captions)
    assert len({tuple(one.probabilities.values()) for one in wanted}) > 180  # so that a swap would be seen
    assert all(same(answer, one) for (_, answer, _), one in zip(answers, wanted, strict=True))
    assert [status for status, _, _ in refusals] == [status for _, _, status in MALFORMED]


@pytest.mark.parametrize(("body", "headers", "status"), MALFORMED)
def test_a_malformed_request_gets_one_line(port, body, headers, status):
    found, answer, _ = ask(port, body, headers)
    assert found == status
    assert set(answer) == {"detail"}
    assert answer["detail"].isprintable()
    assert 0 < len(answer["detail"]) <= 300


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_bytes_of_any_kind_are_never_a_servers_error(port, data):
    body = bytearray(
        data.draw(st.sampled_from([form(picture(1), caption="x", top_k="2"), as_json(caption="x", top_k=2)]))
    )
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    status, answer, _ = ask(port, bytes(body), data.draw(st.sampled_from([FORM, JSON])))
    assert status in (200, 400, 413, 415, 422)
    assert status == 200 or set(answer) == {"detail"}


def test_alone_and_in_company_are_the_same(port, predictor):
    body = form(picture(3), caption="a dog")
    _, alone, _ = ask(port, body, FORM)
    with ThreadPoolExecutor(24) as pool:
        others = [pool.submit(ask, port, form(picture(i), caption="word " * (i % 10 + 1)), FORM) for i in range(23)]
        _, together, _ = pool.submit(ask, port, body, FORM).result()
        assert all(other.result()[0] == 200 for other in others)
    assert together["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
    assert same(alone, predictor.predict(picture(3), "a dog"))


def test_top_k_and_threshold_are_each_requests_own(port, predictor):
    _, answer, _ = ask(port, as_json(caption="a dog", top_k=2, threshold=0), JSON)
    wanted = predictor.predict(captions="a dog")
    assert answer["labels"] == list(predictor.classes)
    assert [(one["label"], pytest.approx(one["probability"])) for one in answer["top"]] == wanted.top(2)
    _, answer, _ = ask(port, form(caption="a dog", threshold=""), FORM)
    assert "top" not in answer
    assert answer["labels"] == wanted.labels


def test_an_answer_has_the_detail_that_is_asked_for(port):
    fields = {"caption": "a dog", "top_k": 1}
    answers = {
        detail: ask(port, as_json(picture(1), **fields, **({"detail": detail} if detail else {})), JSON)[1]
        for detail in ("", "all", "probabilities", "labels")
    }
    assert answers[""] == answers["all"]
    assert set(answers["all"]) == {"labels", "probabilities", "opinions", "top"}
    assert answers["probabilities"] == {k: v for k, v in answers["all"].items() if k != "opinions"}
    assert answers["labels"] == {k: v for k, v in answers["all"].items() if k in ("labels", "top")}
    assert ask(port, form(picture(1), caption="a dog", top_k="1", detail="labels"), FORM)[1] == answers["labels"]


def test_probabilities_have_six_digits_and_labels_are_decided_before():
    prediction = Prediction(
        labels=["a"],
        probabilities={"a": 0.50000001, "b": 0.4999999999, "c": 1.23456789e-9, "d": 0.99999999},
        unimodal={"text": {"a": 1 / 3, "b": 0.25, "c": 0.0, "d": 1.0}},
    )
    answer = answer_of(prediction, 4)
    assert answer["labels"] == ["a"]
    assert answer["probabilities"] == {"a": 0.5, "b": 0.5, "c": 1.23457e-9, "d": 1.0}
    assert answer["opinions"] == {"text": {"a": 0.333333, "b": 0.25, "c": 0.0, "d": 1.0}}
    assert [one["label"] for one in answer["top"]] == ["d", "a", "b", "c"]


def test_a_body_over_the_limit_is_413_however_it_is_declared(port):
    large = form(bytes(250_000))
    for body in (large, iter([large[:9000], large[9000:]])):  # the second is sent in chunks, without a length
        status, answer, _ = ask(port, body, FORM)
        assert status == 413
        assert "0.2 MB" in answer["detail"]
    image = picture(0) + bytes(160_000)  # under the limit itself, over it in base64
    assert ask(port, as_json(image), JSON)[0] == 413
    assert ask(port, form(image), FORM)[0] == 200


def test_a_body_that_does_not_come_is_408_and_one_that_breaks_off_disturbs_nobody(port):
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", port)) as slow, socket.create_connection(("127.0.0.1", port)) as gone:
        slow.sendall(head.encode())
        gone.sendall(head.encode())
        gone.close()
        slow.settimeout(20)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")
    assert ask(port, as_json(caption="x"), JSON)[0] == 200


def test_pixels_are_counted_before_they_are_decoded(port):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for width, height in [(400, 300), (30_000, 30_000)]:  # the second Pillow itself refuses
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
        status, answer, _ = ask(port, form(bomb), FORM)
        assert status == 413
        assert "0.1 megapixels" in answer["detail"]


def test_more_requests_than_may_wait_are_told_to_come_again(predictor, monkeypatch):
    hold, prepare = threading.Event(), Predictor.prepare
    monkeypatch.setattr(Predictor, "prepare", lambda self, *item: hold.wait(30) and prepare(self, *item))
    with serving(predictor, Limits(waiting=2)) as (port, service), ThreadPoolExecutor(2) as pool:
        first = [pool.submit(ask, port, as_json(caption=f"{i} dogs"), JSON) for i in range(2)]
        while service.waiting < 2:
            time.sleep(0.01)
        status, _, headers = ask(port, as_json(caption="x"), JSON)
        assert (status, headers["retry-after"]) == (503, "1")
        assert ask(port, None, {}, "GET", "/health")[1]["waiting"] == 2
        hold.set()
        assert [one.result()[0] for one in first] == [200, 200]
        assert ask(port, as_json(caption="x"), JSON)[0] == 200
        assert service.waiting == 0


def test_a_failing_model_fails_one_item_in_one_line(predictor, monkeypatch, caplog):
    compose = type(predictor.networks).compose

    def poisoned(self, embeddings, present):
        if not present["text"].all():
            raise RuntimeError("poison\x1b[31m")
        return compose(self, embeddings, present)

    monkeypatch.setattr(type(predictor.networks), "compose", poisoned)
    with serving(predictor, Limits()) as (port, _), ThreadPoolExecutor(16) as pool:
        asked = [{"caption": "x"} if i % 4 else {"image": picture(i)} for i in range(16)]
        found = list(pool.map(lambda one: ask(port, as_json(**one), JSON), asked))
    assert [status for status, _, _ in found] == [500 if not i % 4 else 200 for i in range(16)]
    assert found[0][1] == {"detail": "the model failed on this item"}
    assert "\x1b" not in caplog.text


def test_what_is_served_and_how_to_ask(port, predictor):
    status, health, _ = ask(port, None, {}, "GET", "/health")
    assert status == 200
    assert health["status"] == "ready"
    assert health["classes"] == list(predictor.classes)
    assert (health["model"], health["device"], health["format"]) == ("fm3-1", "cpu", 1)
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    assert f"http://127.0.0.1:{port}/predict" in connection.getresponse().read().decode()
    assert ask(port, None, {}, "GET", "/nothing")[0] == 404
    assert ask(port, None, {}, "GET", "/predict")[0] == 405
    assert ask(port, as_json(caption="x"), JSON, path="/predict?top_k=3")[0] == 422


class Page(HTMLParser):
    """The elements of a page, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.fields: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "action", "srcset", "data")]
        self.fields += [value for name, value in attrs if name == "name"]


def test_the_page_of_docs_needs_no_other_host_and_no_script(port):
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/docs")
    answer = connection.getresponse()
    text = answer.read().decode()
    page = Page(text)
    assert (answer.status, answer.getheader("content-type")) == (200, "text/html; charset=utf-8")
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "//" not in text
    assert all(link.startswith("#") or link in ("openapi.json", "predict") for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(re.findall(r'id="(\w+)"', text))
    policy = answer.getheader("content-security-policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self';")
    _, schema, _ = ask(port, None, {}, "GET", "/openapi.json")
    for path in schema["paths"]:
        assert f" {path}</code>" in text
    for status in schema["paths"]["/predict"]["post"]["responses"]:
        assert f"<td>{status}</td>" in text
    assert '<input name="image" type="file">' in text
    assert page.fields == ["caption", "top_k", "threshold", "detail", "image"]
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert ask(port, None, {}, "GET", path)[0] == 404


def test_the_form_of_docs_is_answered_as_a_browser_sends_it(port):
    """Fields that are left empty, and no file."""
    empty = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename=""\r\n'.encode()
    empty += b"Content-Type: application/octet-stream\r\n\r\n\r\n"
    body = empty + form(caption="a dog", top_k="", threshold="", detail="")
    origin = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    status, answer, _ = ask(port, body, {**FORM, **origin})
    assert (status, set(answer)) == (200, {"labels", "probabilities", "opinions"})


def test_the_description_is_valid_and_whole(port):
    from fastapi.openapi.models import OpenAPI

    _, schema, _ = ask(port, None, {}, "GET", "/openapi.json")
    OpenAPI.model_validate(schema)
    for name in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(schema)):
        assert name in schema["components"]["schemas"]
    predict = schema["paths"]["/predict"]["post"]
    kinds = predict["requestBody"]["content"]
    assert set(kinds) == {"multipart/form-data", "application/json"}
    for kind in kinds.values():
        assert set(kind["schema"]["properties"]) == {"image", "caption", "top_k", "threshold", "detail"}
    assert set(predict["responses"]) == {"200", "400", "403", "408", "413", "415", "421", "422", "503"}
    answer = ask(port, as_json(picture(1), caption="x", top_k=1), JSON)[1]
    assert set(answer) == set(schema["components"]["schemas"]["Answer"]["properties"])


TWICE = """
import sys
from mmfeat.cli import main
for _ in range(2):
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
print("both ended")
"""


def test_it_says_where_and_ends_cleanly_by_either_signal(exported):
    """One process serves twice, since most of its start is imports."""
    command = [sys.executable, "-c", TWICE, "serve", str(exported), "--port", "0", "--verbose"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            lines = iter(server.stderr.readline, "")
            found = next(filter(None, (re.search(r"http://127\.0\.0\.1:(\d+)/predict", line) for line in lines)))
            assert ask(int(found.group(1)), as_json(caption="x"), JSON)[0] == 200
            server.send_signal(number)
            assert server.stdout.readline() == f"Stopped after 1 answer. Next: mmfeat serve {exported}\n"
        out, err = server.stdout.read(), server.stderr.read()
    assert (server.returncode, out) == (0, "both ended\n")
    assert "Traceback" not in err


def test_a_folder_that_is_no_model_and_an_address_that_cannot_be_had_are_one_line(exported, port):
    taken = run_cli("serve", str(exported), "--port", str(port), cwd=exported, check=False)
    assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
    assert f"127.0.0.1:{port}: Address already in use. --port 0 takes a free one" in taken.stderr
    done = run_cli("serve", "nothing", "--port", "0", cwd=exported, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    with pytest.raises(ConfigError, match="Name another"):
        bound("no such\x07host", 80)


def test_a_missing_extra_is_said_with_what_to_type(exported, monkeypatch):
    from mmfeat.workflows.serve import serve

    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'mmfeat[serve]'")):
        serve(exported)
    assert require("json", "serve") is json


@pytest.mark.parametrize(("make", "headers"), [(as_json, JSON), (form, FORM)])
def test_an_unknown_field_is_answered_with_the_known_ones(port, make, headers):
    status, answer, _ = ask(port, make(captions="a dog"), headers)
    assert status == 422
    assert answer["detail"] == "captions: no such field. There are: caption, top_k, threshold, detail, image"
