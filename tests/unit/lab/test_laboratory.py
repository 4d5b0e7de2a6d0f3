"""The failover laboratory. Virtual time: the figures are exact, and the same in every run."""

import io
import json
import sys
import xml.etree.ElementTree as ElementTree
from functools import cache

import pytest

from stockade.console.main import main
from stockade.lab.laboratory import CLIENTS, SCENARIOS, Outcome, Scene, run_one
from stockade.lab.laboratory_picture import SCALE, as_png, as_svg, draw
from stockade.lab.laboratory_report import as_json, as_text, shortened
from stockade.model.reasons import HostError, ReasonCode

BY_NAME = {client.name: client for client in CLIENTS}


@cache
def outcome(scenario: str, client: str) -> Outcome:
    return run_one(scenario, BY_NAME[client], 1)


@pytest.mark.parametrize(
    ("client", "least", "most"),
    [
        ("Windows 2000", 300, 366),
        ("Windows 2003", 115, 180),
        ("Windows 2003 with hotfix", 10, 15),
        ("Vista and later with hotfix", 10, 15),
        ("third party, DPD 120 s", 60, 125),
        ("Stockade", 0, 1),
    ],
)
def test_a_cluster_node_crashes(client: str, least: float, most: float) -> None:
    found = outcome("cluster node crash", client)
    assert found.reconnect_s is not None
    assert least <= found.reconnect_s <= most


def test_a_planned_failover_costs_less_than_a_fifth_of_a_second() -> None:
    found = outcome("planned failover", "Stockade")
    assert found.gap_s is not None
    assert found.gap_s < 0.2


def test_a_restarted_server_of_ours_is_back_at_once() -> None:
    found = outcome("server restart", "Stockade")
    assert found.reconnect_s is not None
    assert found.reconnect_s < 0.5
    other = outcome("server restart", "Windows 2003").reconnect_s
    assert other is not None
    assert other > 60


def test_after_a_cut_we_are_back_within_a_second() -> None:
    found = outcome("network cut and return", "Stockade").reconnect_s
    assert found is not None
    assert found <= 1.1


@pytest.mark.parametrize("scenario", ["overloaded node", "lossy path"])
def test_trouble_is_no_death(scenario: str) -> None:
    assert outcome(scenario, "Stockade").given_up == 0


def test_an_hour_of_heavy_loss_is_no_false_alarm() -> None:
    """30 % of all packets, in both directions."""
    scene = Scene(BY_NAME["Stockade"], 3)
    scene.fails("loss")
    scene.network.loss = 0.3
    scene.clock.run(3600.0)
    assert scene.given_up == 0
    assert len(scene.answers) > 500


def test_every_client_comes_back_everywhere() -> None:
    for scenario in SCENARIOS:
        if scenario != "lossy path":
            assert outcome(scenario, "Windows 2003 with hotfix").reconnect_s is not None


def test_the_same_seed_gives_the_same_story() -> None:
    assert run_one("cluster node crash", BY_NAME["Stockade"], 4) == run_one(
        "cluster node crash", BY_NAME["Stockade"], 4
    )


def test_what_is_printed_can_be_read_back() -> None:
    outcomes = [outcome("cluster node crash", name) for name in ("Windows 2003", "Stockade")]
    read = json.loads(as_json(outcomes))
    assert [entry["client"] for entry in read] == ["Windows 2003", "Stockade"]
    assert read[0]["events"][0]["what"] == "node a crashes"
    picture = ElementTree.fromstring(as_svg(outcomes))
    assert sum(element.get("fill") in ("#2f855a", "#4a5568") for element in picture.iter()) == 2
    text = as_text(outcomes)
    assert "2 min" in text
    assert "first packet secured and answered" in text
    assert len(shortened(outcomes[0].events)) <= len(outcomes[0].events)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    picture = f"{tmp_path}/failover.svg"
    words = ["lab", "failover", "--scenario", "crash", "--client", "stockade", "--picture", picture]
    assert main([*words, "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["reconnect_s"] < 1
    assert main(["lab", "failover", "--client", "nobody"]) != 0
    assert "Windows 2000" in capsys.readouterr().err


def test_the_picture_as_png_has_the_same_bars() -> None:
    image = pytest.importorskip("PIL.Image")
    outcomes = [outcome("cluster node crash", name) for name in ("Windows 2003", "Stockade")]
    drawing = draw(outcomes)
    with image.open(io.BytesIO(as_png(outcomes))) as picture:
        assert picture.format == "PNG"
        assert picture.size == (drawing.width * SCALE, drawing.height * SCALE)
        counted = {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 20)}
        for bar in drawing.strokes:
            if hasattr(bar, "width") and bar.width > 1:
                colour = tuple(bytes.fromhex(bar.colour[1:]))
                found = counted[colour]
                assert found == pytest.approx(bar.width * bar.height * SCALE * SCALE, rel=0.1)


def test_without_pillow_a_png_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(HostError, match=r"stockade\[pictures\]") as refusal:
        as_png([outcome("cluster node crash", "Stockade")])
    assert refusal.value.reason.code is ReasonCode.MISSING_PROGRAM


def test_another_ending_of_the_picture_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    assert main(["lab", "failover", "--picture", f"{tmp_path}/failover.gif"]) != 0
    assert ".svg or .png" in capsys.readouterr().err
