"""Where the figures of a run go: JSON lines, TensorBoard, the terminal.

Invariant: `metrics.jsonl` has one line a logged step, ascending, also after
a killed run was taken up again.
"""

import json
import math
import os
import pathlib
import struct
import sys
import time

import jax
import psutil
import rich.console
import rich.progress
from tensorboardX import crc32c
from tensorboardX.proto import event_pb2, summary_pb2

from nulls_jax import files

# Dense bf16 peak of one chip, FLOP/s, from the makers' data sheets.
PEAK_FLOPS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H200": 989e12,
}


def flops_per_token(config) -> float:
  """Return model FLOPs of one trained token: forward and backward, 6 a weight.

  Counts the matrices a token multiplies with, its own sinks included and the
  rest of the pool not, and attention over half a row on average.
  """
  model, sinks = config.model, config.sinks
  heads = 2 * model.num_heads + 2 * model.num_kv_heads
  active = model.backbone_width
  if sinks.kind != "none":
    active += sinks.sinks_per_source
  layer = model.d_model * (heads * model.head_size + 3 * active)
  scores = model.num_heads * model.head_size * config.data.row_length
  weights = model.num_layers * (layer + scores)
  return 6.0 * (weights + model.d_model * model.vocab_size)


def peak_flops() -> float | None:
  """Return the peak FLOP/s of all devices, None where it is not known."""
  devices = jax.devices()
  peak = PEAK_FLOPS.get(devices[0].device_kind)
  return None if peak is None else peak * len(devices)


def memory_bytes() -> int:
  """Return bytes in use: of the first device, or this process on a CPU."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "bytes_in_use" in stats:
    return stats["bytes_in_use"]
  return psutil.Process().memory_info().rss


def keep_until(path: pathlib.Path, step: int) -> None:
  """Drop the lines of `metrics.jsonl` that lie after a restored step."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines():
    try:
      record = json.loads(line)
    except json.JSONDecodeError:  # the line that a kill cut off
      break
    if record["step"] <= step:
      kept.append(line)
  partial = path.with_suffix(".partial")
  partial.write_text("".join(line + "\n" for line in kept))
  os.replace(partial, path)


class Writer:
  """Writes logged steps; only the first process does."""

  def __init__(self, run_dir: pathlib.Path, config, first_step: int):
    """Open the logs of a run.

    Args:
      run_dir: the run directory.
      config: the resolved `RunConfig`.
      first_step: completed updates at the start of this process.
    """
    self._enabled = jax.process_index() == 0
    self._num_steps = config.training.num_steps
    self._flops = flops_per_token(config)
    self._peak = peak_flops()
    self._since = time.monotonic(), first_step
    if not self._enabled:
      return
    path = run_dir / "metrics.jsonl"
    with files.disk_errors(run_dir):
      keep_until(path, first_step)
      # Unbuffered: what a full disk refuses must not come again at the end.
      self._file = path.open("ab", buffering=0)
      self._board = _Board(run_dir / "tensorboard", first_step)
    self._path = path
    self._terminal = _Terminal(self._num_steps, first_step)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._enabled:
      self._terminal.close()
      self._board.close()
      self._file.close()

  def write(self, step: int, values: dict[str, float], tokens: float) -> None:
    """Log one step.

    Args:
      step: completed updates.
      values: losses and norms; NaN (no such document) becomes null.
      tokens: targets trained on since the last logged step.
    """
    if not self._enabled:
      return
    now = time.monotonic()
    seconds = now - self._since[0]
    step_seconds = seconds / max(step - self._since[1], 1)
    self._since = now, step
    rate = tokens / max(seconds, 1e-9)
    record = {
      "step": step,
      **values,
      "tokens_per_second": rate,
      "step_seconds": step_seconds,
      "model_flop_utilisation": (
        rate * self._flops / self._peak if self._peak else None
      ),
      "memory_bytes": memory_bytes(),
    }
    record = {
      name: None if isinstance(value, float) and math.isnan(value) else value
      for name, value in record.items()
    }
    with files.disk_errors(self._path):
      _write(self._file, json.dumps(record).encode() + b"\n")
      self._board.write(step, record)
    self._terminal.show(step, values["loss"], rate, step_seconds)


def _write(file, data: bytes) -> None:
  """Write all of it; an unbuffered file may take a part at a time."""
  while data:
    data = data[file.write(data) :]


class _Board:
  """A TensorBoard file of scalars.

  Written here and not by `tensorboardX.SummaryWriter`: its writing thread
  ends when the disk is full, and training then waits for it for ever.
  """

  def __init__(self, directory: pathlib.Path, first_step: int):
    directory.mkdir(exist_ok=True)
    name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
    self._file = (directory / name).open("xb", buffering=0)
    self._add(file_version="brain.Event:2")
    if first_step:  # Hides what a killed process logged after it.
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._add(step=first_step + 1, session_log=start)

  def write(self, step: int, record: dict) -> None:
    values = [
      summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in record.items()
      if name != "step" and value is not None
    ]
    self._add(step=step, summary=summary_pb2.Summary(value=values))

  def _add(self, **fields) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    data = event.SerializeToString()
    size = struct.pack("<Q", len(data))
    _write(self._file, size + _checksum(size) + data + _checksum(data))

  def close(self) -> None:
    self._file.close()


def _checksum(data: bytes) -> bytes:
  """Return TFRecord's masked CRC-32C."""
  crc = crc32c.crc32c(data)
  rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
  return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


class _Terminal:
  """A progress bar on a terminal, about twenty plain lines in a log."""

  def __init__(self, num_steps: int, first_step: int):
    self._num_steps = num_steps
    self._interval = max(1, num_steps // 20)
    self._next = first_step + 1
    self._started = False
    self._bar = None
    if sys.stderr.isatty():
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn("training"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[figures]}"),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
      )
      self._task = self._bar.add_task(
        "", total=num_steps, completed=first_step, figures="compiling"
      )
      self._bar.start()

  def show(self, step, loss, rate, step_seconds):
    if self._bar is not None:
      figures = f"loss {loss:.3f}  {rate:,.0f} tokens/s"
      self._bar.update(self._task, completed=step, figures=figures)
    elif step >= self._next or step == self._num_steps:
      self._next = step + self._interval
      line = f"step {step}/{self._num_steps}  loss {loss:.3f}"
      # The first figures are those of compiling.
      if self._started:
        left = (self._num_steps - step) * step_seconds
        line += f"  {rate:,.0f} tokens/s  {left:,.0f} s left"
      self._started = True
      print(line, file=sys.stderr, flush=True)

  def close(self):
    if self._bar is not None:
      self._bar.stop()
