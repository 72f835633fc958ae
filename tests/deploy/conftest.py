"""A server under mixed calls, and a Prometheus that watches it, for all tests of this folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from protos.consort.v1 import classifier_pb2 as pb
from protos.consort.v1 import classifier_pb2_grpc
from serving.server import Server
from tests.bundles import write_bundle
from tests.conftest import run_server
from tests.deploy.prometheus import Prometheus, run_prometheus
from tests.serving.test_server import raw, target

EXPECTED = {"images": 100, "class_shares": [0.5, 0.3, 0.2], "entropy": 0.25, "agreement": 0.75}
LARGE = raw(np.zeros((256, 1, 4, 4), np.uint8).tobytes(), (256, 1, 4, 4))


@pytest.fixture(scope="package")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Has scraped, and goes on scraping, a server that is called all the time.

    Only for this folder: calls in the background would run into what tests of others patch in this process.
    """
    folder, over = tmp_path_factory.mktemp("prometheus"), threading.Event()
    write_bundle(folder / "models", expected=EXPECTED)
    with run_server(folder / "models") as server, run_prometheus(folder, server.metrics_port) as prometheus:
        caller = threading.Thread(target=keep_calling, args=(server, over))
        caller.start()
        yield prometheus
        over.set()
        caller.join()


def keep_calling(server: Server, over: threading.Event) -> None:
    """Right calls, wrong ones, and some whose caller has no patience."""
    with grpc.insecure_channel(target(server)) as channel:
        classify = classifier_pb2_grpc.ClassifierStub(channel).Classify
        while not over.wait(0.05):
            for request in (raw(), raw(model_name="x"), pb.ClassifyRequest()):
                classify.future(request, timeout=30).exception()
            leaving = [classify.future(LARGE, timeout=30) for _ in range(4)]
            for call in leaving:
                call.cancel()
