import json
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner

from k2_dagster.cli.play import Speed, play_command, progress_text
from k2_dagster.cli.progress import LOGGED_SECONDS, progress_line
from k2_dagster.feeds.capture.binance_csv import TRADE_HEADER
from k2_dagster.feeds.capture.player import PlayReport
from k2_dagster.kafka.topics import ensure_topics
from k2_dagster.schemas.profiles import PACKAGED_PROFILES, load_profiles
from k2_dagster.settings import Settings, as_environment


@pytest.mark.parametrize(("text", "factor"), [("original", 1.0), ("10", 10.0), ("0.5", 0.5), ("flat-out", None)])
def test_speeds(text: str, factor: float | None) -> None:
    assert Speed().convert(text, None, None) == factor


@pytest.mark.parametrize("text", ["fast", "0", "-1", "nan", "inf"])
def test_another_speed_is_a_usage_error_that_says_what_is_valid(text: str) -> None:
    result = CliRunner().invoke(play_command, [__file__, "--speed", text])
    assert result.exit_code == 2
    assert "`original`" in result.output


def test_files_must_be_there() -> None:
    result = CliRunner().invoke(play_command, ["/nowhere"])
    assert result.exit_code == 2
    assert "does not exist" in result.output


@pytest.mark.stack
def test_a_capture_is_played_and_reported(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"b_{uuid.uuid4().hex[:10]}"
    profiles = tmp_path / "profiles.toml"
    text = PACKAGED_PROFILES.read_text()
    profiles.write_text(
        text.replace("exchanges.binance.", f"exchanges.{name}.").replace("exchanges.binance]", f"exchanges.{name}]")
    )
    ensure_topics(settings, load_profiles(profiles), [name])
    for key, value in (as_environment(settings) | {"K2_PROFILES": str(profiles)}).items():
        monkeypatch.setenv(key, value)
    capture = tmp_path / "x.csv"
    capture.write_bytes(
        TRADE_HEADER + b"\n1741046401272286,x@trade,trade,1741046401271969,1741046401271497,X,7,0.2312,2,1,True\ntorn\n"
    )
    result = CliRunner().invoke(play_command, [str(capture), "--exchange", name, "--json"], catch_exceptions=False)
    (report,) = json.loads(result.output)
    assert (report["exchange"], report["inputs"], report["refused"]) == (name, 2, 1)
    # The feed handler tells of one stream's connection, at its beginning and its end
    assert report["rows"] == {"ticks": 1, "control": 2}
    shown = CliRunner().invoke(play_command, [str(capture), "--exchange", name], catch_exceptions=False)
    assert f"binance_trade_csv -> {name}: 2 control, 1 ticks" in shown.output
    assert "refused and published for quarantine: 1; first: 3: trade:" in shown.output


def test_progress_says_how_much_and_when() -> None:
    report = PlayReport("/somewhere/x.gz", "f", "e", "s", share=0.421, recorded_micros=1_723_161_493_000_000)
    report.rows.update(ticks=12_345)
    assert progress_text(report) == "x.gz: 42 %, at 2024-08-08 23:58:13 UTC, 12,345 rows"


def test_where_there_is_no_terminal_progress_is_told_rarely(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_line("begins") as line:
        line.show("too soon")
        line._shown -= LOGGED_SECONDS
        line.show("now")
        line.show("too soon again")
    assert capsys.readouterr().err == "now\n"


def test_a_text_is_made_only_when_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    made: list[int] = []

    def text(number: int) -> str:
        made.append(number)
        return f"number {number}"

    with progress_line("begins") as line:
        tell = line.telling(text)
        tell(1)
        line._shown -= LOGGED_SECONDS
        tell(2)
        tell(3)
    assert (made, capsys.readouterr().err) == ([2], "number 2\n")
