"""The smoke scale of the study holds, and a claim can fail."""

import pytest

from attnscope import catalogue
from attnscope.studies import Part, Study, at_most

pytest.importorskip("clarabel", reason="clarabel is not installed: pip install 'attnscope[studies]'")


def test_smoke_scale_holds() -> None:
    result = catalogue.load("studies", "sheen2024implicit")().run("smoke")
    assert not [(claim.name, claim.expected, claim.measured) for claim in result.claims if not claim.holds]
    assert len(result.claims) > 15
    assert set(result.to_dict()["claims"][0]) >= {"name", "place", "expected", "tolerance", "measured", "holds"}


def test_a_failing_claim_is_reported_as_failing() -> None:
    class Wrong(Study):
        title = reference = "none"

        def parts(self, scale: str):
            return [("one", lambda: Part(claims=[at_most("too large", "nowhere", 1.0, 2.0)]))]

    assert not Wrong().run("smoke").holds
