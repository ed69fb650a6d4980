"""JSON, SARIF and GitHub annotations: what other programs read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diagnoses
from attnscope import formats
from attnscope.anatomy.blocks import Source
from attnscope.findings import Diagnosis, Severity
from attnscope.formats.files import readable

EXAMPLES = {
    "faulty": diagnoses.faulty, "healthy": diagnoses.healthy, "hostile": diagnoses.hostile,
    "no attention": diagnoses.without_attention, "deep": lambda: diagnoses.faulty(24, 16),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_json_comes_back_as_the_same_diagnosis(name: str) -> None:
    diagnosis = EXAMPLES[name]()
    written = formats.to_json(diagnosis)
    again = Diagnosis.from_dict(json.loads(written))
    assert again.verdict() == diagnosis.verdict()
    assert formats.to_json(again) == written


def test_json_keeps_numbers_that_are_not_finite() -> None:
    mask = Diagnosis.from_dict(json.loads(formats.to_json(diagnoses.faulty()))).anatomy.attentions[0].mask[0]
    assert mask.fill == -math.inf
    evidence = Diagnosis.from_dict(json.loads(formats.to_json(diagnoses.hostile()))).findings[0].evidence[0]
    assert math.isnan(evidence.value)
    assert evidence.expected == -math.inf


def check_sarif(log: dict[str, Any]) -> None:
    """The fields that SARIF 2.1.0 requires, and the references that must hold."""
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    assert isinstance(log["runs"], list)
    for run in log["runs"]:
        driver = run["tool"]["driver"]
        assert isinstance(driver["name"], str)
        ids = [rule["id"] for rule in driver["rules"]]
        assert len(set(ids)) == len(ids)
        for rule in driver["rules"]:
            assert rule["defaultConfiguration"]["level"] in {"none", "note", "warning", "error"}
            assert rule["shortDescription"]["text"]
            if "help" in rule:
                assert rule["help"]["text"]
        for invocation in run["invocations"]:
            assert isinstance(invocation["executionSuccessful"], bool)
            for note in invocation["toolExecutionNotifications"]:
                assert note["message"]["text"]
                assert note["level"] in {"none", "note", "warning", "error"}
        for result in run["results"]:
            assert result["message"]["text"]
            assert result["level"] in {"none", "note", "warning", "error"}
            assert result["kind"] == "fail"
            assert ids[result["ruleIndex"]] == result["ruleId"]
            assert all(isinstance(value, str) and value for value in result["partialFingerprints"].values())
            for location in result["locations"]:
                check_location(location)


def check_location(location: dict[str, Any]) -> None:
    for place in location["logicalLocations"]:
        assert place["name"]
        assert place["fullyQualifiedName"]
    if "physicalLocation" in location:
        artifact = location["physicalLocation"]["artifactLocation"]
        assert artifact["uri"]
        assert not set(artifact["uri"]) & set(' <>"\\^`{|}\n\u202e')
        assert location["physicalLocation"]["region"]["startLine"] >= 1


@pytest.mark.parametrize("name", EXAMPLES)
def test_sarif_holds_the_required_fields(name: str) -> None:
    diagnosis = EXAMPLES[name]()
    log = json.loads(formats.to_sarif(diagnosis))
    check_sarif(log)
    assert len(log["runs"][0]["results"]) == len(diagnosis.findings)


def test_sarif_points_at_the_line_the_layer_and_the_head() -> None:
    results = json.loads(formats.to_sarif(diagnoses.faulty()))["runs"][0]["results"]
    physical = results[0]["locations"][0]["physicalLocation"]
    assert physical["artifactLocation"] == {"uri": "reviews/model.py", "uriBaseId": "%SRCROOT%"}
    assert physical["region"]["startLine"] == 62
    assert "masked_fill" in physical["region"]["snippet"]["text"]
    names = [place["fullyQualifiedName"] for place in results[1]["locations"][0]["logicalLocations"]]
    assert names == ["L2H5.V", "L2H5", "distilbert.transformer.layer.2.attention"]
    assert [result["level"] for result in results] == ["error", "warning", "note"]
    assert "physicalLocation" not in results[2]["locations"][0]


def test_sarif_makes_paths_relative_to_the_checkout(tmp_path: Path) -> None:
    first = replace(diagnoses.findings()[0], source=Source(str(tmp_path / "a b" / "m.py"), 7))
    outside = replace(first, source=Source("/elsewhere/m.py", 7))
    diagnosis = replace(diagnoses.faulty(), findings=(first, outside))
    results = json.loads(formats.to_sarif(diagnosis, root=tmp_path))["runs"][0]["results"]
    artifacts = [item["locations"][0]["physicalLocation"]["artifactLocation"] for item in results]
    assert artifacts[0] == {"uri": "a%20b/m.py", "uriBaseId": "%SRCROOT%"}
    assert artifacts[1] == {"uri": "file:///elsewhere/m.py"}
    assert "file=a b/m.py,line=7" in formats.to_github(diagnosis, root=tmp_path)


def test_files_are_named_for_people() -> None:
    assert readable("/opt/env/lib/python3.11/site-packages/transformers/models/x.py") == "transformers/models/x.py"
    assert readable(str(Path.cwd() / "train.py")) == "train.py"
    assert readable("/elsewhere/train.py") == "/elsewhere/train.py"


def test_sarif_fingerprints_survive_a_moved_line() -> None:
    bare = tuple(replace(finding, fingerprint="") for finding in diagnoses.findings())
    moved = tuple(
        replace(finding, source=finding.source and replace(finding.source, line=finding.source.line + 9))
        for finding in bare
    )

    def prints(found: tuple[Any, ...]) -> list[str]:
        log = json.loads(formats.to_sarif(replace(diagnoses.faulty(), findings=found)))
        return [result["partialFingerprints"]["attnscope/v1"] for result in log["runs"][0]["results"]]

    assert prints(bare) == prints(moved)
    assert len(set(prints(bare))) == len(bare)


def test_an_interrupted_run_is_not_a_successful_one() -> None:
    log = json.loads(formats.to_sarif(replace(diagnoses.healthy(), interrupted=True)))
    assert log["runs"][0]["invocations"][0]["executionSuccessful"] is False


def read_annotation(command: str) -> tuple[str, dict[str, str], str]:
    """Reads a workflow command back as GitHub's runner does."""
    head, _, data = command.removeprefix("::").partition("::")
    level, _, listed = head.partition(" ")
    properties = dict(item.partition("=")[::2] for item in listed.split(","))
    return level, {name: unquote(value) for name, value in properties.items()}, unquote(data)


def test_annotations_say_level_file_line_and_title() -> None:
    commands = formats.to_github(diagnoses.faulty()).splitlines()
    read = [read_annotation(command) for command in commands]
    assert [level for level, _, _ in read] == ["error", "warning", "notice"]
    assert read[0][1] == {"file": "reviews/model.py", "line": "62", "title": "MSK102 at L3.mask"}
    assert "29 % of layer 3" in read[0][2]
    assert "\ntry: Compare the mask" in read[0][2]
    assert "file" not in read[2][1]


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from(Severity))
def test_annotations_never_break_out_of_their_line(name: str, summary: str, severity: Severity) -> None:
    finding = replace(
        diagnoses.findings()[0], block_or_site=name, summary=summary, severity=severity,
        source=Source(name, 0, "", ""),
    )
    written = formats.to_github(replace(diagnoses.faulty(), findings=(finding,)))
    assert "\n" not in written
    assert "\r" not in written
    level, properties, data = read_annotation(written)
    assert level in {"error", "warning", "notice"}
    assert set(properties) == {"file", "line", "title"}
    assert properties["line"] == "1"
    assert data.isprintable() or "\n" in data


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1), st.text())
def test_sarif_is_whole_whatever_the_names(name: str, words: str) -> None:
    finding = replace(
        diagnoses.findings()[0], code=name, kind=name, block_or_site=name, summary=words or "x",
        fingerprint="", source=Source(name, -3, words, words),
    )
    check_sarif(json.loads(formats.to_sarif(replace(diagnoses.faulty(4, 2), findings=(finding,)))))


def test_a_clean_run_is_announced() -> None:
    calm = "::notice title=attnscope::Nothing found: 6 attentions checked."
    assert formats.to_github(diagnoses.healthy()) == calm


def test_formats_open_without_torch() -> None:
    script = "import sys, attnscope.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
