"""What onnxruntime itself can do with a bundle: images a second without any server around it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.load import pixels_of
from serving.ensemble import Ensemble


def images_per_second(bundle: Path, images: int, threads: int, seconds: float) -> float:
    """Each thread runs all members on batches of so many images, one after the other, on one-thread sessions."""
    ensemble = Ensemble(bundle, "cpu")
    pixels = pixels_of(images, ensemble.manifest.input.shape)
    members = range(len(ensemble.manifest.members))
    end = time.perf_counter() + seconds

    def run(_: int) -> int:
        """Images that one thread gets done."""
        done = 0
        while time.perf_counter() < end:
            for member in members:
                ensemble.run_member(member, pixels)
            done += images
        return done

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        done = sum(pool.map(run, range(threads)))
        return done / (time.perf_counter() - started)
