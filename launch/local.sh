#!/usr/bin/env bash
# Runs a program as N processes on this machine that train one run.
#
#   bash launch/local.sh N [flags] -- nulls train ...
#
# Flags:
#   --devices N             CPU devices of each process; 1
#   --port N                of process 0, and the next one; any that are free
#   --logs FOLDER           also keep what each process prints in FOLDER/rank-R
#   --restarts N            in a row without a new checkpoint; 3
#   --dry-run               print the commands, run nothing
#
# The processes talk over the loopback interface (gloo), as hosts of a pod do
# over their network: a pod's run can be tried, killed and resumed here first.
# Each line that one prints starts with its number in brackets.
#
# The status is that of the first process with a failure of its own; or 75 where
# a whole checkpoint is saved and the same command goes on, which is done here
# until --restarts is reached; or 0. TERM or Ctrl-C: all processes are told to
# save and end, the second time they are killed; nothing is started again.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"
# shellcheck source=launch/restart.sh
source "$root/launch/restart.sh"

operands=(count)
value_flags=(--devices --port --logs --restarts)

count='' devices=1 port='' logs='' restarts=3
pids=() readers=()

check() {
  [ -n "$count" ] || refuse "no number of processes given; see $script --help"
  check_number "number of processes" "$count"
  check_number --devices "$devices"
  check_number --restarts "$restarts"
  [ -z "$port" ] || check_number --port "$port"
  [ "$count" -gt 0 ] || refuse "0 processes: give at least 1"
  [ "$devices" -gt 0 ] || refuse "--devices 0: give at least 1"
  check_program ${program[@]+"${program[@]}"}
}

is_free() { # port
  ! (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

free_port() { # two in a row: ours and that of JAX
  local found
  while :; do
    found=$((20000 + RANDOM % 12000))
    if is_free "$found" && is_free $((found + 1)); then
      echo "$found"
      return
    fi
  done
}

rank_command() { # rank, port; sets `words`
  words=(
    env
    "NULLS_COORDINATOR=127.0.0.1:$2"
    "NULLS_NUM_PROCESSES=$count"
    "NULLS_PROCESS_ID=$1"
    JAX_PLATFORMS=cpu
    "JAX_NUM_CPU_DEVICES=$devices"
    # Threads for steps in flight: with one a core, the devices of a process
    # wait for each other for ever.
    "NPROC=${NPROC:-64}"
    "${program[@]}"
  )
}

show() { # rank, stream's lines on 0
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    printf '[%s] %s\n' "$1" "$line"
    if [ -n "$logs" ]; then
      printf '%s\n' "$line" >>"$logs/rank-$1"
    fi
  done
}

start_all() { # state, port
  local rank words=()
  pids=() readers=()
  for ((rank = 0; rank < count; rank++)); do
    rm -f "$1/out-$rank" "$1/err-$rank"
    mkfifo "$1/out-$rank" "$1/err-$rank"
    # They end with the process; a signal to the group is not for them.
    (trap '' INT TERM && show "$rank") <"$1/out-$rank" &
    readers+=($!)
    (trap '' INT TERM && show "$rank") <"$1/err-$rank" >&2 &
    readers+=($!)
    rank_command "$rank" "$2"
    "${words[@]}" >"$1/out-$rank" 2>"$1/err-$rank" &
    pids+=($!)
  done
}

wait_all() { # state
  local rank status
  mkdir -p "$1/ranks"
  for ((rank = 0; rank < count; rank++)); do
    while :; do
      status=0
      wait "${pids[$rank]}" || status=$?
      # `wait` also ends when a trap has run; then the process is still there.
      kill -0 "${pids[$rank]}" 2>/dev/null || break
    done
    echo "$status" >"$1/ranks/$rank"
  done
  wait "${readers[@]}" || true
}

stop_all() { # state
  local pid signal=TERM
  if [ -e "$1/stop" ]; then signal=KILL; fi
  touch "$1/stop"
  for pid in ${pids[@]+"${pids[@]}"}; do
    kill "-$signal" "$pid" 2>/dev/null || true
  done
}

run_all() {
  local state status run_dir
  state=$(mktemp -d)
  # shellcheck disable=SC2064 # The folder of now.
  trap "rm -rf '$state'" EXIT
  trap 'stop_all "$state"' TERM INT
  [ -z "$logs" ] || mkdir -p "$logs" || fail "$logs: cannot be made"
  run_dir=$(run_of "${program[@]}")
  while :; do
    start_all "$state" "${port:-$(free_port)}"
    wait_all "$state"
    status=$(joint_status "$state" "$count")
    if [ "$status" -ne "$again" ] || [ -e "$state/stop" ]; then
      return "$status"
    fi
    may_restart "$state" "$run_dir" "$restarts" || return "$again"
  done
}

main_local() {
  parse "$@"
  check
  local bin=$root/.venv/bin rank words=()
  if [ -d "$bin" ]; then PATH=$bin:$PATH; fi
  if [ -n "$dry_run" ]; then
    port=${port:-$(free_port)}
    for ((rank = 0; rank < count; rank++)); do
      rank_command "$rank" "$port"
      quote "${words[@]}"
    done
    return
  fi
  need "${program[0]}" "install this package, or give the program's path"
  run_all
}

main_local "$@"
