"""What docs/pods.md shows of --dry-run is what the scripts print.

To write the page anew after a change of a script:

    python tests/launch/test_docs.py
"""

import os
import pathlib
import re
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "pods.md"
# Where the reader's checkout is, on the page.
CHECKOUT = "/home/me/nulls_jax"
_BLOCK = re.compile(
  r"```console\n\$ (?P<command>.*)\n(?P<out>[^`]*(?:`(?!``)[^`]*)*)```"
)

COMMANDS = [match["command"] for match in _BLOCK.finditer(PAGE.read_text())]


def _printed(command: str) -> str:
  words = shlex.split(command)
  assert words[0] == "bash" and words[1].startswith("launch/"), command
  # Whatever happens, nothing but printing.
  assert "--dry-run" in words, command
  done = subprocess.run(
    words,
    cwd=ROOT,
    env={"PATH": os.environ["PATH"], "HOME": "/home/me"},
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.replace(str(ROOT), CHECKOUT)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_shows_what_is_printed(command):
  shown = {
    match["command"]: match["out"]
    for match in _BLOCK.finditer(PAGE.read_text())
  }
  assert shown[command] == _printed(command), f"see the head of {__file__}"


@pytest.mark.parametrize("name", ["tpu.sh", "gke.sh", "slurm.sh"])
def test_the_page_shows_every_action(name):
  text = (ROOT / "launch" / name).read_text()
  actions = text.partition("  check_action ")[2].partition("\n")[0].split()
  assert len(actions) > 4
  for action in actions:
    start = f"bash launch/{name} {action} "
    assert any(command.startswith(start) for command in COMMANDS), start


def _rewrite() -> None:
  text = _BLOCK.sub(
    lambda match: (
      f"```console\n$ {match['command']}\n{_printed(match['command'])}```"
    ),
    PAGE.read_text(),
  )
  PAGE.write_text(text)


if __name__ == "__main__":
  _rewrite()
