"""The server's metrics as the page draws them."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from explorer.errors import MetricsUnreadable
from explorer.metrics import fetch_metrics, summarize_metrics

TEXT = """
# TYPE consort_stage_seconds histogram
consort_stage_seconds_bucket{model="a",version="1",stage="total",le="0.001"} 1
consort_stage_seconds_bucket{model="a",version="1",stage="total",le="+Inf"} 3
consort_stage_seconds_sum{model="a",version="1",stage="total"} 0.5
consort_stage_seconds_count{model="a",version="1",stage="total"} 3
consort_stage_seconds_bucket{model="b",version="2",stage="total",le="0.001"} 4
consort_stage_seconds_bucket{model="b",version="2",stage="total",le="+Inf"} 5
consort_stage_seconds_sum{model="b",version="2",stage="queue"} 0.25
consort_stage_seconds_bucket{model="b",version="2",stage="queue",le="+Inf"} 99
# TYPE consort_predictions counter
consort_predictions_total{model="a",version="1",class_label="0"} 7
consort_predictions_total{model="b",version="2",class_label="1"} 5
"""


def test_counts_are_added_up_over_all_models() -> None:
    assert summarize_metrics(TEXT) == {
        "images": 12,
        "buckets": [[0.001, 5], [None, 8]],
    }


def test_a_server_that_has_answered_nothing_has_counts_of_zero() -> None:
    assert summarize_metrics("") == {"images": 0, "buckets": []}


def test_what_is_no_metrics_text_is_said() -> None:
    with pytest.raises(MetricsUnreadable, match="is no metrics text"):
        summarize_metrics("<html>{")


def test_an_address_that_answers_otherwise_is_named() -> None:
    """A gRPC port begins with frames of HTTP/2."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        answered = thread.submit(answer_with, server, b"\0\0\0\4\0\0\0\0\0\r\n")
        with pytest.raises(MetricsUnreadable, match="No metrics can be had from"):
            fetch_metrics(f"http://127.0.0.1:{server.getsockname()[1]}/metrics", 10)
        answered.result()


def answer_with(server: socket.socket, said: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(said)
        connection.recv(1000)


def test_an_address_where_nobody_answers_is_named() -> None:
    with pytest.raises(MetricsUnreadable, match=r"No metrics can be had from http://127\.0\.0\.1:1/metrics"):
        fetch_metrics("http://127.0.0.1:1/metrics", 1)
