"""What several processes count is told as if one had counted it, and no count goes backwards."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from serving.merging import Labels, MergedMetrics, Snapshot, take_snapshot
from serving.metrics import Metrics

VERSION = (("model", "digits"), ("version", "1"))


class Worker:
    """A worker that tells what it is told to tell; None: nothing in time."""

    def __init__(self, says: Snapshot | None = None) -> None:
        self.says = says

    def ask(self) -> None:
        """Nothing has to be prepared."""

    def answer(self, seconds: float) -> Snapshot | None:
        return self.says


def counted(worker: Metrics) -> Snapshot:
    return take_snapshot(worker.registry.collect())


def merged_of(*workers: Worker) -> MergedMetrics:
    merged = MergedMetrics(Metrics().registry)
    for worker in workers:
        merged.add(worker)
    return merged


def value(merged: MergedMetrics, name: str, labels: Labels = ()) -> float | None:
    """What Prometheus would read."""
    registry = CollectorRegistry()
    registry.register(merged)
    return registry.get_sample_value(name, dict(labels))


def calls(number: float) -> Snapshot:
    return {"consort_arrived_calls": {("consort_arrived_calls_total", (("method", "Classify"),)): number}}


def predictions(number: float, version: str = "1") -> Snapshot:
    labels: Labels = (("model", "digits"), ("version", version))
    return {
        "consort_judged_images": {("consort_judged_images_total", labels): number},
        "consort_model_info": {("consort_model_info", (*labels, ("members", "6"), ("provider", "cpu"))): 1.0},
    }


def arrived(merged: MergedMetrics) -> float | None:
    return value(merged, "consort_arrived_calls_total", (("method", "Classify"),))


def judged(merged: MergedMetrics) -> float | None:
    return value(merged, "consort_judged_images_total", VERSION)


def test_counters_and_histograms_are_added_up() -> None:
    """Calls of 1 ms and 4 ms in one worker, of 1 ms in the other."""
    one, other = Metrics(), Metrics()
    for seconds in (0.001, 0.004):
        one.calls.seconds.labels("Classify", "OK").observe(seconds)
    other.calls.seconds.labels("Classify", "OK").observe(0.001)
    one.calls.arrived.labels("Classify").inc(2)
    other.calls.arrived.labels("Classify").inc()
    merged = merged_of(Worker(counted(one)), Worker(counted(other)))
    labels = (("method", "Classify"), ("code", "OK"))
    assert arrived(merged) == 3
    assert value(merged, "consort_call_seconds_count", labels) == 3
    assert value(merged, "consort_call_seconds_sum", labels) == 0.006
    assert value(merged, "consort_call_seconds_bucket", (*labels, ("le", "0.001"))) == 2
    assert value(merged, "consort_call_seconds_bucket", (*labels, ("le", "+Inf"))) == 3


def test_what_every_worker_has_a_part_of_is_added_up_and_what_all_say_alike_is_not() -> None:
    one, other = Metrics(), Metrics()
    for worker, waiting, oldest in ((one, 2, 0.5), (other, 3, 0.1)):
        worker.models.queue.images.labels("digits", "1").set(waiting)
        worker.models.queue.oldest.labels("digits", "1").set(oldest)
        worker.models.info.labels("digits", "1", "6", "cpu").set(1)
    merged = merged_of(Worker(counted(one)), Worker(counted(other)))
    assert value(merged, "consort_queue_images", VERSION) == 5
    assert value(merged, "consort_queue_oldest_seconds", VERSION) == 0.5
    assert value(merged, "consort_model_info", (*VERSION, ("members", "6"), ("provider", "cpu"))) == 1


def test_memory_is_that_of_all_processes_and_the_start_that_of_the_first() -> None:
    """This process counts as well, as the supervisor does."""
    snapshot = counted(Metrics())
    resident = snapshot["process_resident_memory_bytes"]["process_resident_memory_bytes", ()]
    snapshot["process_start_time_seconds"]["process_start_time_seconds", ()] = 1.0
    snapshot["process_resident_memory_bytes"]["process_resident_memory_bytes", ()] = 1e12
    merged = merged_of(Worker(snapshot))
    assert value(merged, "process_start_time_seconds") == 1.0
    assert 1e12 < (value(merged, "process_resident_memory_bytes") or 0) < 1e12 + 2 * resident


def test_what_a_worker_counted_stays_when_it_has_ended() -> None:
    worker, survivor = Worker(calls(5)), Worker(calls(2))
    merged = merged_of(worker, survivor)
    assert arrived(merged) == 7
    merged.remove(worker)
    assert arrived(merged) == 7
    merged.add(Worker(calls(1)))
    assert arrived(merged) == 8


def test_gauges_of_a_worker_go_with_it() -> None:
    busy = Metrics()
    busy.calls.in_flight.labels("Classify").set(4)
    worker = Worker(counted(busy))
    merged = merged_of(worker)
    assert value(merged, "consort_in_flight_calls", (("method", "Classify"),)) == 4
    merged.remove(worker)
    assert value(merged, "consort_in_flight_calls", (("method", "Classify"),)) is None


def test_a_worker_that_does_not_answer_in_time_counts_with_what_it_told_last() -> None:
    worker = Worker(calls(5))
    merged = merged_of(worker)
    assert arrived(merged) == 5
    worker.says = None
    assert arrived(merged) == 5
    worker.says = calls(6)
    assert arrived(merged) == 6


def test_a_version_that_was_unloaded_and_loaded_between_two_scrapes_goes_on_counting() -> None:
    first, second = Worker(predictions(10)), Worker(predictions(20))
    merged = merged_of(first, second)
    assert judged(merged) == 30
    first.says = predictions(3)
    assert judged(merged) == 33
    first.says = predictions(5)
    assert judged(merged) == 35


def test_a_histogram_that_begins_anew_keeps_all_of_its_buckets() -> None:
    """Some of which have more in them already than before."""

    def observed(*seconds: float) -> Snapshot:
        worker = Metrics()
        for one in seconds:
            worker.calls.seconds.labels("Classify", "OK").observe(one)
        return counted(worker)

    worker = Worker(observed(*[0.001] * 5, *[0.1] * 5))
    merged = merged_of(worker)
    labels = (("method", "Classify"), ("code", "OK"))
    assert value(merged, "consort_call_seconds_count", labels) == 10
    worker.says = observed(*[0.001] * 6)
    assert value(merged, "consort_call_seconds_count", labels) == 16
    assert value(merged, "consort_call_seconds_bucket", (*labels, ("le", "0.001"))) == 11
    assert value(merged, "consort_call_seconds_bucket", (*labels, ("le", "+Inf"))) == 16


def test_a_version_that_one_worker_has_unloaded_counts_until_all_have() -> None:
    """Each worker looks at the folder by itself, so that one is always the first."""
    first, second = Worker(predictions(10)), Worker(predictions(20))
    merged = merged_of(first, second)
    assert judged(merged) == 30
    first.says = predictions(0, version="2")
    assert judged(merged) == 30
    second.says = predictions(0, version="2")
    assert judged(merged) is None
    first.says = predictions(1)
    assert judged(merged) == 1, "loaded again, it is counted anew, as by a server of one process"


def test_what_the_last_worker_counted_outlasts_it() -> None:
    """All workers may die at once: what they had counted is told again by those that replace them."""
    worker = Worker(predictions(10))
    merged = merged_of(worker)
    assert judged(merged) == 10
    merged.remove(worker)
    assert judged(merged) == 10
    merged.add(Worker(predictions(1)))
    assert judged(merged) == 11


def test_all_metrics_of_a_server_are_there_before_any_worker_is() -> None:
    registry = CollectorRegistry()
    registry.register(MergedMetrics(Metrics().registry))
    assert [family.name for family in registry.collect()] == [
        family.name for family in Metrics().registry.collect()
    ]


def test_a_metric_that_is_asked_for_by_name_is_found() -> None:
    own = CollectorRegistry()
    Counter("one_total", "", registry=own)
    Counter("two_total", "", registry=own)
    registry = CollectorRegistry()
    registry.register(MergedMetrics(own))
    (found,) = registry.restricted_registry(["one_total"]).collect()
    assert [sample.name for sample in found.samples] == ["one_total"]
