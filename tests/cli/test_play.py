import pytest
from click.testing import CliRunner

from k2_dagster.cli.play import Speed, play_command


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
