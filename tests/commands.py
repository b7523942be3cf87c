"""Running reed-cache in a test; read it by runpy."""

from __future__ import annotations

from click.testing import CliRunner

from reed.cli.cache import main as cli


def invoked(*words):
    """Run a command, which may fail but not by an unexpected error; return click's result."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def run(*words) -> str:
    """Run a command that must succeed."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(*words) -> str:
    """Run a command that must end with one line of error."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1, result.output
    return result.output
