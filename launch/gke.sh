#!/usr/bin/env bash
# Runs a program on TPU slices of a GKE cluster, through XPK.
#
#   bash launch/gke.sh ACTION --cluster CLUSTER --zone ZONE [flags] \
#     [-- nulls train ...]
#
# Actions:
#   create   a cluster with slices of --type
#   run      queue a program on the cluster
#   status   the cluster's programs
#   wait     until a program has ended
#   logs     follow a program's output on every host
#   stop     end a program, which saves a checkpoint first
#   delete   the cluster; asks first
#
# Flags:
#   --cluster CLUSTER       always needed
#   --zone ZONE             such as us-east5-b; always needed
#   --project PROJECT       gcloud's own where it is left out
#   --type TYPE             v6e-256, v5p-512, v5e-256 (create, run)
#   --slices N              equal slices; 1
#   --spot | --reservation R | --on-demand
#                           what the slices are made of
#   --job JOB               name of the program; train
#   --image IMAGE           holds this package; otherwise this checkout is added
#                           to python:3.12 and installed at each start
#   --max-restarts N        in all; 50
#   --grace-seconds N       between notice and end, for the checkpoint; 300
#   --yes                   delete without asking
#   --dry-run               print the commands that would run, and run none
#
# Status 75 of a program (a whole checkpoint is saved, the same command goes on)
# restarts it, up to --max-restarts. XPK also restarts on 42 and 127 to 255;
# other statuses end it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"

value_flags=(--cluster --zone --project --type --slices --reservation --job
  --image --max-restarts --grace-seconds)
switches=(--spot --on-demand --yes)

cluster='' zone='' project='' type='' slices=1 spot='' on_demand=''
reservation='' job=train image='' max_restarts=50 grace_seconds=300 yes=''

check() {
  check_action create run status wait logs stop delete
  check_name "cluster (--cluster)" "$cluster"
  check_name "zone (--zone)" "$zone"
  check_name "job (--job)" "$job"
  [ ${#job} -le 40 ] || refuse "--job $job: XPK takes 40 letters at most"
  check_number --slices "$slices"
  check_number --max-restarts "$max_restarts"
  check_number --grace-seconds "$grace_seconds"
  check_one_of --spot --on-demand --reservation
  check_program_of run
  local word
  for word in ${program[@]+"${program[@]}"}; do
    # Kubernetes itself replaces $(NAME) in a container's command.
    case $word in
      *\$\(*) refuse "'$word': Kubernetes would replace \$(...) in it" ;;
    esac
  done
  case $action:$type in
    create: | run:) refuse "no --type given, such as --type v6e-256" ;;
    *:v5e-*) type=v5litepod-${type#*-} ;;
  esac
}

start_program() {
  local command from
  command="exec $(quote "${program[@]}")"
  if [ -n "$image" ]; then
    from=(--docker-image="$image")
  else
    from=(--base-docker-image=python:3.12 --script-dir="$root")
    command="python -m pip install --quiet '.[tpu,gcs]' && $command"
  fi
  # `exec`: the notice that XPK hands on has to reach the program itself.
  run xpk workload create --workload="$job" "${where[@]}" --tpu-type="$type" \
    --num-slices="$slices" "${from[@]}" --max-restarts="$max_restarts" \
    --restart-on-exit-codes=75 \
    --termination-grace-period-seconds="$grace_seconds" \
    ${capacity[@]+"${capacity[@]}"} --command="$command"
}

follow() {
  local place=(--location="${zone%-*}")
  [ -z "$project" ] || place+=(--project="$project")
  run gcloud container clusters get-credentials "$cluster" "${place[@]}"
  run kubectl logs --selector="xpk.google.com/workload=$job" --prefix --follow \
    --tail=100 --max-log-requests=1024
}

main() {
  parse "$@"
  check
  need xpk "pip install xpk"
  where=(--cluster="$cluster" --zone="$zone") capacity=()
  [ -z "$project" ] || where+=(--project="$project")
  [ -z "$spot" ] || capacity=(--spot)
  [ -z "$on_demand" ] || capacity=(--on-demand)
  [ -z "$reservation" ] || capacity=(--reservation="$reservation")
  case $action in
    create)
      run xpk cluster create "${where[@]}" --tpu-type="$type" \
        --num-slices="$slices" ${capacity[@]+"${capacity[@]}"}
      ;;
    run) start_program ;;
    status) run xpk workload list "${where[@]}" ;;
    wait)
      run xpk workload list "${where[@]}" --wait-for-job-completion="$job"
      ;;
    logs)
      need kubectl "gcloud components install kubectl"
      follow
      ;;
    stop) run xpk workload delete --workload="$job" "${where[@]}" ;;
    delete)
      if [ -n "$yes" ]; then where+=(--force --quiet); fi
      run xpk cluster delete "${where[@]}"
      ;;
  esac
}

main "$@"
