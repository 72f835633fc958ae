"""The server's own metrics, reduced to what the page draws."""

from __future__ import annotations

import http.client
import urllib.request
from collections import defaultdict
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from explorer.errors import MetricsUnreadable

MOST_BYTES = 16 * 2**20


def fetch_metrics(url: str, timeout_seconds: float) -> str:
    """The text that the server shows Prometheus.

    Raises:
        MetricsUnreadable: Nobody answers there.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as reply:  # noqa: S310 - the settings allow http and https alone
            return str(reply.read(MOST_BYTES).decode())
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise MetricsUnreadable(f"No metrics can be had from {url}.") from error


def summarize_metrics(text: str) -> dict[str, Any]:
    """Counts since the server started, over all models.

    Returns:
        images: How many images were answered.
        buckets: [upper bound in seconds, calls up to it], ascending, of the whole time of calls; the last has no
            bound: None.

    Raises:
        MetricsUnreadable: The text is none that Prometheus would read.
    """
    images = 0.0
    buckets: dict[float, float] = defaultdict(float)
    try:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except ValueError as error:
        raise MetricsUnreadable("What came from the metrics address is no metrics text.") from error
    for sample in samples:
        match sample.name, sample.labels.get("stage"):
            case "consort_predictions_total", _:
                images += sample.value
            case "consort_stage_seconds_bucket", "total":
                buckets[float(sample.labels["le"])] += sample.value
    ascending = [[None if bound == float("inf") else bound, buckets[bound]] for bound in sorted(buckets)]
    return {"images": images, "buckets": ascending}
