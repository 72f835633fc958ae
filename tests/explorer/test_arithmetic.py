"""What the page computes by itself, worked out by hand; and what its benchmark reports."""

from __future__ import annotations

from playwright.sync_api import Page

from benchmarks.explorer import spread


def test_quantiles_lie_straight_between_the_bounds_of_their_bucket(page: Page) -> None:
    """Of 10 calls, 4 took up to 1 s, 4 more up to 2 s, 2 more than that: half took at most 1 + 1/4 s."""
    found = page.evaluate(
        """async () => {
          const { between, quantile } = await import('/static/live.js');
          const buckets = [[1, 4], [2, 8], [null, 10]];
          const before = { images: 5, buckets: [[1, 2], [2, 2], [null, 2]] };
          const after = { images: 25, buckets: [[1, 2], [2, 6], [null, 6]] };
          return {
            median: quantile(buckets, 0.5),
            slow: quantile(buckets, 0.99),
            none: quantile([[1, 0], [null, 0]], 0.5),
            interval: between(before, after, 4),
            restarted: between(after, before, 1),
          };
        }"""
    )
    assert (found["median"], found["slow"], found["none"]) == (1.25, 2, None)
    assert (found["interval"]["rate"], found["interval"]["median"]) == (5, 1.5)
    assert found["restarted"]["rate"] == 5


def test_inputs_are_turned_pushed_and_covered_with_noise(page: Page) -> None:
    """On 3x3 pixels: the upper one lands on the right, or one to the right; noise is always the same."""
    found = page.evaluate(
        """async () => {
          const { addNoise, rotate, shift } = await import('/static/sweeps.js');
          const input = { pixels: Uint8Array.from([0, 90, 0, 0, 0, 0, 0, 0, 0]), shape: [1, 3, 3] };
          return {
            turned: [...rotate(input, 90)],
            still: [...rotate(input, 0)],
            pushed: [...shift(input, 1)],
            noise: [[...addNoise(input, 0.5)], [...addNoise(input, 0.5)], [...addNoise(input, 0)]],
          };
        }"""
    )
    assert found["turned"] == [0, 0, 0, 0, 0, 90, 0, 0, 0]
    assert found["still"] == [0, 90, 0, 0, 0, 0, 0, 0, 0]
    assert found["pushed"] == [0, 0, 90, 0, 0, 0, 0, 0, 0]
    assert found["noise"][0] == found["noise"][1] != found["still"]
    assert found["noise"][2] == found["still"]


def test_verdicts_in_plain_words(page: Page) -> None:
    found = page.evaluate(
        """async () => {
          const { doubtInWords, earlyStopInWords, votesInWords } = await import('/static/words.js');
          const [three, eight] = [[0.9, 0.1], [0.2, 0.8]];
          const votes = (members) => votesInWords(members, ['3', '8']);
          return {
            five: votes([three, three, eight, three, three, three]),
            all: votes([eight, eight]),
            one: votes([three]),
            sure: doubtInWords({ entropy: 0.01, mutual_information: 0 }, 10),
            disagreeing: doubtInWords({ entropy: 1, mutual_information: 0.6 }, 10),
            ambiguous: doubtInWords({ entropy: 1, mutual_information: 0.1 }, 10),
            last: earlyStopInWords(6, 6),
            five_of_six: earlyStopInWords(5, 6),
          };
        }"""
    )
    assert found["five"] == "Five of six say 3, one says 8."
    assert found["all"] == "All two say 8."
    assert found["one"] == "The one member asked says 3."
    assert found["sure"] == "The ensemble is sure."
    assert "is unsure, mostly because its members disagree" in found["disagreeing"]
    assert "its members agree that it is ambiguous" in found["ambiguous"]
    assert found["last"].startswith("All had to be asked")
    assert "the last one could not have changed it" in found["five_of_six"]


def test_hidden_parts_cover_the_whole_input(page: Page) -> None:
    """Patches of 5x5 every 2 pixels, from 2 outside to 2 outside: 14 x 14 on 28 x 28; each pixel is hidden."""
    found = page.evaluate(
        """async () => {
          const { hideParts } = await import('/static/occlusion.js');
          const pixels = new Uint8Array(784).fill(200);
          pixels[0] = 0;
          const { inputs } = hideParts(pixels, [1, 28, 28]);
          const hidden = new Set(inputs.flatMap((one) => [...one.keys()].filter((at) => one[at] !== pixels[at])));
          return [inputs.length, hidden.size];
        }"""
    )
    assert found == [14 * 14, 783]


def test_the_benchmark_reports_median_and_nearest_rank() -> None:
    assert spread([30.0, 10.0, 20.0]) == "20 ms at the median, 30 ms at the 95th percentile (3)"
    assert spread([float(one) for one in range(1, 102)]).startswith("51 ms at the median, 96 ms")
