#!/usr/bin/env bash
# When a training program is started again, and how often.
#
#   bash launch/restart.sh loop    STATE RUN MAX -- PROGRAM ...
#   bash launch/restart.sh start   STATE RUN MAX -- PROGRAM ...
#   bash launch/restart.sh state   STATE
#   bash launch/restart.sh stop    STATE
#   bash launch/restart.sh task    STATE -- PROGRAM ...
#   bash launch/restart.sh requeue STATE RUN MAX RANKS
#
# `nulls train` ends with status 75 when it has saved a whole checkpoint and
# wants the same command again: it was told to end, or lost another host. Any
# other status ends the job. MAX bounds the restarts in a row that bring no new
# checkpoint of RUN (a folder, or gs://; where it is empty or cannot be read,
# all restarts count). STATE is a folder of this job's on this host, or on a
# disk that all hosts share.
#
# loop: run the program until it needs no restart. start: the same, apart from
# this shell. state: say whether it runs, or how it ended. stop: have it save
# and end. task: run one rank of a SLURM job and note its status. requeue: after
# all ranks have ended, queue the SLURM job again or end it.
set -euo pipefail

readonly again=75

complain() {
  printf 'restart: %s\n' "$*" >&2
}

newest_step() { # of a run, 0 where there is none
  local names=''
  case $1 in
    '') ;;
    gs://*)
      names=$(gcloud storage ls "${1%/}/checkpoints/" 2>/dev/null || true)
      ;;
    *) names=$(ls -1 "${1%/}/checkpoints" 2>/dev/null || true) ;;
  esac
  printf '%s\n' "$names" |
    sed -n 's:^\(.*/\)\{0,1\}\([0-9][0-9]*\)/\{0,1\}$:\2:p' |
    sort -n | tail -n 1 | grep . || echo 0
}

# Counts a restart; false when there were too many without progress.
may_restart() { # state, run, max
  local state=$1 run=$2 max=$3 step last=-1 count=0
  if [ -e "$state/stop" ]; then
    complain "stopped, as asked; the checkpoint is saved"
    return 1
  fi
  step=$(newest_step "$run")
  if [ -e "$state/restarts" ]; then
    read -r last count <"$state/restarts"
  fi
  if [ "$step" -gt "$last" ] && [ "$last" -ge 0 ]; then
    count=0
  fi
  count=$((count + 1))
  if [ "$count" -gt "$max" ]; then
    complain "$max restarts in a row without a new checkpoint" \
      "(newest step $step); look at the log, then start the job again"
    return 1
  fi
  printf '%s %s\n' "$step" "$count" >"$state/restarts"
  complain "status $again: start $count of at most $max in a row without a" \
    "new checkpoint (newest step $step)"
}

finish() { # state, status
  printf '%s\n' "$2" >"$1/status.partial"
  mv -f "$1/status.partial" "$1/status"
  exit "$2"
}

loop() { # state, run, max, program ...
  local state=$1 run=$2 max=$3 status
  shift 3
  mkdir -p "$state"
  rm -f "$state/status"
  printf '%s\n' "$$" >"$state/pid"
  child=
  # Sent to this process alone, so it is handed on; once.
  trap 'if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null || true; fi' \
    TERM INT
  while :; do
    if [ -e "$state/stop" ]; then
      finish "$state" "$again"
    fi
    "$@" &
    child=$!
    while :; do
      status=0
      wait "$child" || status=$?
      # `wait` also ends when the trap has run; then the child is still there.
      kill -0 "$child" 2>/dev/null || break
    done
    child=
    if [ "$status" -ne "$again" ]; then
      finish "$state" "$status"
    fi
    if ! may_restart "$state" "$run" "$max"; then
      # A stop is what was asked for; too many restarts are a failure.
      if [ -e "$state/stop" ]; then finish "$state" "$again"; fi
      finish "$state" 1
    fi
  done
}

is_running() { # state
  local pid
  [ -e "$1/pid" ] && pid=$(cat "$1/pid") && kill -0 "$pid" 2>/dev/null &&
    ps -o args= -p "$pid" | grep -q 'restart\.sh loop'
}

start() { # state, run, max, program ...
  if is_running "$1"; then
    printf 'nulls-job: %s running already\n' "$(uname -n)"
    return
  fi
  mkdir -p "$1"
  rm -f "$1/stop" "$1/restarts" "$1/status" "$1/pid"
  # A session of its own: it outlives the connection that started it.
  setsid bash "$0" loop "$1" "$2" "$3" -- "${@:4}" \
    </dev/null >>"$1/log" 2>&1 &
  printf 'nulls-job: %s started\n' "$(uname -n)"
}

state() { # state
  local how='not started'
  if is_running "$1"; then
    how=running
  elif [ -e "$1/status" ]; then
    how="ended $(cat "$1/status")"
  elif [ -e "$1/pid" ]; then
    how='ended 137' # killed with its host, before it could say so
  fi
  printf 'nulls-job: %s %s\n' "$(uname -n)" "$how"
}

stop() { # state
  mkdir -p "$1"
  touch "$1/stop"
  if is_running "$1"; then
    kill -TERM "$(cat "$1/pid")"
  fi
  printf 'nulls-job: %s asked to stop\n' "$(uname -n)"
}

task() { # state, program ...
  local folder=$1/ranks status=0
  shift
  mkdir -p "$folder"
  # SLURM signals every process of a step, so nothing is handed on here.
  trap : TERM
  "$@" &
  local child=$!
  while :; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  printf '%s\n' "$status" >"$folder/${SLURM_PROCID:-0}"
  exit "$status"
}

# The ranks together: a real failure beats 75, and 75 beats having been killed,
# since those that say 75 have seen that another was lost.
joint_status() { # state, ranks
  local file status rank asks='' killed=''
  for ((rank = 0; rank < $2; rank++)); do
    file=$1/ranks/$rank
    status=137
    if [ -e "$file" ]; then status=$(cat "$file"); fi
    if [ "$status" -eq "$again" ]; then
      asks=yes
    elif [ "$status" -ge 128 ]; then
      killed=$status
    elif [ "$status" -ne 0 ]; then
      complain "rank $rank ended with status $status"
      echo "$status"
      return
    fi
  done
  if [ -n "$asks" ]; then echo "$again"; else echo "${killed:-0}"; fi
}

requeue() { # state, run, max, ranks
  local status
  status=$(joint_status "$1" "$4")
  rm -rf "$1/ranks"
  if [ "$status" -ne "$again" ]; then
    exit "$status"
  fi
  if ! may_restart "$1" "$2" "$3"; then
    if [ -e "$1/stop" ]; then exit 0; fi
    exit 1
  fi
  scontrol requeue "${SLURM_JOB_ID:?}"
}

main() {
  local action=${1:-} state=${2:-}
  if [ -z "$state" ]; then
    sed -n '2,24{/^#/{s/^# \{0,1\}//;p;};}' "$0"
    if [ "$action" = --help ]; then exit 0; fi
    exit 2
  fi
  case $action:$#:${3:-}:${5:-} in
    task:*:--:*) task "$state" "${@:4}" ;;
    loop:*:*:-- | start:*:*:--) "$action" "$state" "$3" "$4" "${@:6}" ;;
    requeue:5:*) requeue "$state" "$3" "$4" "$5" ;;
    state:2:*) state "$state" ;;
    stop:2:*) stop "$state" ;;
    *)
      complain "not understood: $*; see bash launch/restart.sh --help"
      exit 2
      ;;
  esac
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
fi
