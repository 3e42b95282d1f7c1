"""Places that may not be read or written: one line, and what to change."""

import json
import shutil
import subprocess
import sys

import pytest

# Permissions hold for root, too, in what is run without its capabilities.
_OBEY = """
import ctypes, os, sys
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2
if not os.geteuid():
  for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
_DRIVER = """
import json, sys
from nulls_jax import cli
for arguments in json.loads(sys.argv[1]):
  print(cli.main(arguments), file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_places_without_rights(many_blocks, tmp_path):
  """In a real process: the tests may run as root."""
  shut, fixed, data = (tmp_path / name for name in ("shut", "fixed", "data"))
  for place in (shut, fixed):
    place.mkdir()
  text = shut / "text.jsonl"
  shutil.copy(many_blocks.path, text)
  shutil.copytree(many_blocks.undisturbed, data)
  (data / "ledger.sqlite").chmod(0)
  shut.chmod(0)
  fixed.chmod(0o500)
  good = many_blocks.path
  prepare = ("prepare", "--workers=1", "--documents")
  inside = "Permission denied; change its permissions or its folder's, or"
  outside = "cannot be written: Permission denied; choose another place or mend"
  cases = [
    ((*prepare, shut, "--out", data), f"{shut} may not be read; change its"),
    ((*prepare, text, "--out", data), f"{text}: {inside}"),
    ((*prepare, good, "--out", fixed / "x"), f"{fixed}/x.partial {outside}"),
    ((*prepare, good, "--out", shut / "x"), f"{shut}/x: {inside}"),
    (("prepare", "merge", "--out", shut / "x"), f"{shut}: {inside}"),
    (
      ("prepare", "check", "--data", data),
      f"{data}: ledger.sqlite may not be read; change their permissions",
    ),
    (
      ("mix", "--data", many_blocks.undisturbed, "--out", fixed / "x"),
      f"{fixed}/x.partial {outside}",
    ),
  ]
  commands = [[str(word) for word in command] for command, _ in cases]
  done = subprocess.run(
    [sys.executable, "-c", _OBEY, "-c", _DRIVER, json.dumps(commands)],
    capture_output=True,
    text=True,
  )
  shut.chmod(0o700)
  lines = done.stderr.splitlines()
  assert lines[1::2] == ["2"] * len(cases), done.stderr
  for (_, expected), line in zip(cases, lines[::2], strict=True):
    assert line.startswith(f"nulls: {expected}"), line
