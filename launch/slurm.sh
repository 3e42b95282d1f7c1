#!/usr/bin/env bash
# Runs a program on the nodes of a SLURM cluster, one process a node.
#
#   bash launch/slurm.sh ACTION [flags] [-- nulls train ...]
#
# Actions:
#   run      write the job's sbatch file and submit it
#   status   the job in the queue, and its restarts
#   logs     follow the job's output
#   stop     tell the program to save a checkpoint and end; not queued again
#   delete   cancel the job at once, without a checkpoint
#
# Flags:
#   --job JOB               name of the job; train
#   --folder FOLDER         of sbatch file, output and restarts, on a disk that
#                           all nodes share; slurm/JOB in the current folder
#   --nodes N               1
#   --gpus N                of each node; 8
#   --cpus N                of each node's process; left to SLURM
#   --time TIME             D-HH:MM:SS; left to SLURM
#   --partition, --account, --qos, --constraint NAME
#   --venv FOLDER           of Python with this package; .venv of this checkout
#   --notice-seconds N      before the time is up, for the checkpoint; 300
#   --max-restarts N        in a row without a new checkpoint; 10
#   --dry-run               print the sbatch file and the commands, run nothing
#
# A job whose program ends with status 75 (a whole checkpoint is saved, the same
# command goes on) is queued again; any other status ends it. Before its time is
# up and, where the cluster gives notice, before it is preempted, the program is
# told to save.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"

value_flags=(--job --folder --nodes --gpus --cpus --time --partition --account
  --qos --constraint --venv --notice-seconds --max-restarts)

job=train folder='' nodes=1 gpus=8 cpus='' time='' partition=''
account='' qos='' constraint='' venv=$root/.venv notice_seconds=300
max_restarts=10

check() {
  check_action run status logs stop delete
  check_name "job (--job)" "$job"
  local flag value
  for flag in nodes gpus notice-seconds max-restarts; do
    value=${flag//-/_}
    check_number "--$flag" "${!value}"
  done
  [ -z "$cpus" ] || check_number --cpus "$cpus"
  # SLURM reads these lines itself and knows no quotes in them.
  for flag in time partition account qos constraint; do
    case ${!flag} in
      *[!A-Za-z0-9_.,:@\&\|-]*) refuse "--$flag '${!flag}': no such name" ;;
    esac
  done
  check_program_of run
  folder=${folder:-slurm/$job}
  case $folder in
    /*) ;;
    *) folder=$PWD/$folder ;;
  esac
  case $folder in
    *$'\n'* | *' '* | *'%'*)
      refuse "--folder '$folder': SLURM takes no space and no % in it"
      ;;
  esac
}

directive() { # flag, value; nothing where the value is empty
  [ -z "$2" ] || printf '#SBATCH --%s=%s\n' "$1" "$2"
}

sbatch_file() {
  local run_dir restart=$root/launch/restart.sh
  run_dir=$(run_of "${program[@]}")
  echo '#!/usr/bin/env bash'
  directive job-name "$job"
  directive nodes "$nodes"
  directive ntasks-per-node 1
  directive gpus-per-node "$gpus"
  directive cpus-per-task "$cpus"
  directive time "$time"
  directive partition "$partition"
  directive account "$account"
  directive qos "$qos"
  directive constraint "$constraint"
  directive output "$folder/log"
  directive open-mode append
  directive signal "TERM@$notice_seconds"
  echo '#SBATCH --requeue'
  echo 'set -euo pipefail'
  quote cd "$PWD"
  # shellcheck disable=SC2016 # $PATH is the node's
  printf 'export PATH=%s:"$PATH"\n' "$(quote "$venv/bin")"
  # A node that was lost had no time to take these away.
  quote rm -rf "$folder/ranks"
  # The ranks' own statuses decide, not srun's, which is only the highest.
  printf 'srun --kill-on-bad-exit=0 --label %s || true\n' "$(
    quote bash "$restart" task "$folder" -- "${program[@]}"
  )"
  quote exec bash "$restart" requeue "$folder" "$run_dir" "$max_restarts" \
    "$nodes"
}

submit() {
  local file=$folder/job.sbatch
  if [ -n "$dry_run" ]; then
    note "writes $file:"
    sbatch_file
    note "then submits it, and keeps its number in $folder/id:"
    quote sbatch --parsable "$file"
    return
  fi
  mkdir -p "$folder" || fail "$folder: cannot be made"
  if [ -e "$folder/id" ] &&
    [ -n "$(squeue --noheader --jobs="$(cat "$folder/id")" 2>/dev/null)" ]; then
    fail "$job is queued or running already (job $(cat "$folder/id"));" \
      "stop or delete it first"
  fi
  rm -rf "$folder/stop" "$folder/restarts" "$folder/ranks"
  sbatch_file >"$file"
  local number
  number=$(sbatch --parsable "$file")
  printf '%s\n' "${number%%;*}" >"$folder/id"
  say "submitted as ${number%%;*}; follow it with: $(
    quote bash "$root/launch/slurm.sh" logs --job "$job" --folder "$folder"
  )"
}

id() { # of the submitted job
  if [ -n "$dry_run" ]; then
    # Of this job if it is submitted, and a word in its place otherwise.
    cat "$folder/id" 2>/dev/null || echo JOB_ID
  else
    cat "$folder/id" 2>/dev/null ||
      refuse "$folder: no job was submitted from here; give its --folder"
  fi
}

main() {
  parse "$@"
  check
  local number
  case $action in
    run)
      need sbatch "run this where SLURM's commands are"
      submit
      ;;
    logs) run tail -n 100 -F "$folder/log" ;;
    status)
      number=$(id)
      # The queue forgets jobs that are over, and not every cluster keeps books.
      run squeue --jobs="$number" || true
      run sacct --jobs="$number" --duplicates \
        --format=JobID,State,ExitCode,Start,End || true
      ;;
    stop)
      number=$(id)
      note "so that it is not queued again"
      run touch "$folder/stop"
      run scancel --signal=TERM "$number"
      ;;
    delete)
      number=$(id)
      run scancel "$number"
      ;;
  esac
}

main "$@"
