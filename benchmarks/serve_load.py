"""The server's throughput beside the Predictor's own, on the same items and the same cores, alternating in one run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/serve_load.py MODEL ~/coco18/images-0.zip [--items 384] [--clients 64] [--repetitions 3]

Both sides decode the same JPEG bytes. The requests are built beforehand and sent by one more process over connections
that stay open; what it takes of the cores counts against the server. The variable is what the mmfeat command sets for itself.
Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import selectors
import socket
import statistics
import threading
import time
import zipfile
from pathlib import Path

from mmfeat.predictor import Predictor
from mmfeat.serving.limits import Limits
from mmfeat.workflows.serve import bound, make_server

BOUNDARY = "a-line-that-stands-in-no-picture"
WORDS = "a photo of two dogs on the beach near a red bench while people walk past them under the trees"


def measure(
    model: Path | str, archive: Path | str, items: int = 384, clients: int = 64, repetitions: int = 3
) -> dict[str, float]:
    """Items a second of both ways, medians over alternating repetitions, and the median of their ratios.

    Parameters
    ----------
    archive : path
        A zip file of JPEG files.
    clients : int
        Connections, each with one request at a time.
    """
    predictor = Predictor.load(model)
    with zipfile.ZipFile(archive) as images:
        names = [info for info in images.infolist() if info.filename.endswith(".jpg")][:items]
        pictures = [images.read(name) for name in names]
    captions = [WORDS[: 30 + 7 * (row % 11)] for row in range(len(pictures))]
    listener = bound("127.0.0.1", 0)
    server, _ = make_server(predictor, Limits(waiting=2 * clients))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    asked, answered = multiprocessing.get_context("spawn").Pipe()
    requests = [_request(image, caption) for image, caption in zip(pictures, captions, strict=True)]
    port = listener.getsockname()[1]
    client = multiprocessing.get_context("spawn").Process(target=_client, args=(answered, port, requests, clients))
    client.start()
    try:
        asked.recv()
        rates: list[tuple[float, float]] = []
        for repetition in range(repetitions + 1):  # the first warms up
            start = time.perf_counter()
            predictor.predict(pictures, captions)
            alone = len(pictures) / (time.perf_counter() - start)
            asked.send("go")
            served = len(pictures) / asked.recv()
            if repetition:
                rates.append((alone, served))
        asked.send("")
    finally:
        server.should_exit = True
        thread.join()
        client.join(10)
    return {
        "items": len(pictures),
        "clients": clients,
        "predictor": statistics.median(alone for alone, _ in rates),
        "server": statistics.median(served for _, served in rates),
        "ratio": statistics.median(served / alone for alone, served in rates),
    }


def _request(image: bytes, caption: str) -> bytes:
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    body = f'{part}image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'.encode() + image
    body += f'\r\n{part}caption"\r\n\r\n{caption}\r\n--{BOUNDARY}--\r\n'.encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _client(pipe: multiprocessing.connection.Connection, port: int, requests: list[bytes], clients: int) -> None:
    """Send all requests over so many connections, as often as it is told to; gives the seconds."""
    pipe.send("ready")
    while pipe.recv():
        start, rest, left = time.perf_counter(), list(requests), len(requests)
        selector = selectors.DefaultSelector()
        for _ in range(min(clients, len(rest))):
            connection = socket.create_connection(("127.0.0.1", port))
            selector.register(connection, selectors.EVENT_READ, bytearray())
            connection.sendall(rest.pop())
        while left:
            for key, _ in selector.select():
                key.data.extend(key.fileobj.recv(65536))
                head, _, body = key.data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or -1)
                if length != len(body):
                    continue
                if not head.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(head.decode())
                left -= 1
                key.data.clear()
                if rest:
                    key.fileobj.sendall(rest.pop())
        seconds = time.perf_counter() - start
        for key in list(selector.get_map().values()):
            key.fileobj.close()
        pipe.send(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--items", type=int, default=384)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
