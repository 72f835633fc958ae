"""What a bundle records of the held-out images, by hand; and that an export records it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from export.expected import measure_expected
from export.manifest import MANIFEST_FILE, read_manifest
from tests.bundles import write_bundle


def test_shares_entropy_and_agreement_of_known_members() -> None:
    """Two members, two images: they disagree on the first, (0.5, 0.5) on average, and are sure of the second."""
    members = torch.tensor([[[0.9, 0.1], [0.0, 1.0]], [[0.1, 0.9], [0.0, 1.0]]])
    found = measure_expected(members)
    assert found.images == 2
    assert found.class_shares == (0.5, 0.5)
    assert found.entropy == pytest.approx(math.log(2) / 2)
    assert found.agreement == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("shares", "message"),
    [([0.5, 0.5], "expected.class_shares: 2 values, expected 3"), ([0.5, 0.5, 0.5], "sum 1.500000, expected 1")],
)
def test_shares_must_be_shares_of_all_classes(tmp_path: Path, shares: list[float], message: str) -> None:
    expected = {"images": 10, "class_shares": shares, "entropy": 0.1, "agreement": 0.9}
    with pytest.raises(ValidationError, match=message):
        write_bundle(tmp_path, expected=expected)


def test_a_bundle_may_record_nothing(tmp_path: Path) -> None:
    """As those do that were written before; their manifests do not name it."""
    folder = write_bundle(tmp_path)
    assert read_manifest(folder).expected is None
    assert "expected" not in json.loads((folder / MANIFEST_FILE).read_text())
