#!/usr/bin/env bash
# Runs a program on every host of a Cloud TPU VM slice.
#
#   bash launch/tpu.sh ACTION NAME --zone ZONE [flags] [-- nulls train ...]
#
# Actions:
#   create   request the slice (a queued resource), or reuse it; wait for it
#   install  put this package into nulls/venv on every host
#   exec     run a program on every host and wait for it, as `nulls doctor`
#   run      start a program on every host, apart from this shell
#   keep     create, install, run and watch to the end; a slice that was
#            preempted is requested again, and the program goes on
#   status   the slice, and the program on every host
#   logs     follow the program's output on every host
#   stop     tell the program to save a checkpoint and end; the slice stays
#   delete   give the slice back; asks first
#
# Flags:
#   --zone ZONE             such as us-east5-b; always needed
#   --project PROJECT       gcloud's own where it is left out
#   --type TYPE             v6e-256, v5p-512, v5e-256 (create, keep)
#   --runtime VERSION       software of the hosts; by the type where left out
#   --spot | --reserved     cheaper and preemptible | a reservation's
#   --service-account MAIL  whose rights the hosts have
#   --network, --subnetwork NAME
#   --internal-ip           hosts without public addresses
#   --disk PATH             projects/P/zones/Z/disks/D, attached read-only
#   --package SPEC          what pip installs; this checkout's HEAD otherwise
#   --python VERSION        of nulls/venv; 3.12
#   --job JOB               name of the program, to tell several apart; train
#   --max-restarts N        in a row without a new checkpoint; 10
#   --wait-minutes N        for the slice; 1440
#   --yes                   delete without asking
#   --dry-run               print the commands that would run, and run none
#
# A program that ends with status 75 has saved a whole checkpoint and is started
# again (launch/restart.sh); any other status ends it. Exit status: 0 done, 1
# something failed, 2 wrong flags.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"
# shellcheck source=launch/restart.sh
source "$root/launch/restart.sh"

operands=(action name)
value_flags=(--zone --project --type --runtime --service-account --network
  --subnetwork --disk --package --python --job --max-restarts --wait-minutes)
switches=(--spot --reserved --internal-ip --yes)

name='' zone='' project='' type='' runtime='' spot='' reserved=''
service_account='' network='' subnetwork='' internal_ip='' disk='' package=''
python=3.12 job=train max_restarts=10 wait_minutes=1440 yes=''
# Whether the checkout was packed; see install_package.
archived=''
# Seconds between two looks at a slice; looks without an answer before the
# hosts are started anew.
poll=30 patience=20

check() {
  check_action create install exec run keep status logs stop delete
  check_name "slice name" "$name"
  check_name "zone (--zone)" "$zone"
  check_name "job (--job)" "$job"
  check_number --max-restarts "$max_restarts"
  check_number --wait-minutes "$wait_minutes"
  check_one_of --spot --reserved
  check_program_of exec run keep
  case $action in
    create | keep) check_type ;;
  esac
}

check_type() {
  local known=''
  case $type in
    v6e-*) known=v2-alpha-tpuv6e ;;
    v5p-*) known=v2-alpha-tpuv5 ;;
    # `nulls compile` and JAX call v5e what gcloud calls v5litepod.
    v5e-* | v5litepod-*)
      known=v2-alpha-tpuv5-lite
      type=v5litepod-${type#*-}
      ;;
    '') refuse "no --type given, such as --type v6e-256" ;;
    *) [ -n "$runtime" ] || refuse "--type $type: give its --runtime too" ;;
  esac
  runtime=${runtime:-$known}
}

queued() { # a verb and its flags
  run gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}"
}

on_all() { # a shell command for every host
  local flags=(--worker=all)
  [ -z "$internal_ip" ] || flags+=(--internal-ip)
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "${flags[@]}" \
    --command="$1"
}

# A field of the request or of its machine, NONE where there is none; false if
# gcloud could not say.
field() { # queued-resources | tpu-vm, field
  local complaints said status=0
  complaints=$(mktemp)
  gcloud compute tpus "$1" describe "$name" "${where[@]}" \
    --format="value($2)" 2>"$complaints" || status=$?
  said=$(cat "$complaints")
  rm -f "$complaints"
  [ "$status" -ne 0 ] || return 0
  case $said in
    *NOT_FOUND*) echo NONE ;;
    *)
      say "gcloud cannot describe $name: $(printf '%s' "$said" | tail -n 1)"
      return 1
      ;;
  esac
}

# The state of the slice: ACTIVE, WAITING_FOR_RESOURCES, ..., NONE, or LOST. A
# request can be active though its machine is gone. False: gcloud did not say,
# and nothing may be concluded from that.
slice_state() {
  local request machine
  request=$(field queued-resources state.state) || return 1
  if [ "$request" = ACTIVE ]; then
    machine=$(field tpu-vm state) || return 1
    case $machine in
      PREEMPTED | TERMINATED | NONE) request=LOST ;;
    esac
  fi
  printf '%s\n' "$request"
}

request() {
  local flags=(
    --node-id="$name"
    --accelerator-type="$type"
    --runtime-version="$runtime"
  )
  [ -z "$spot" ] || flags+=(--spot)
  [ -z "$reserved" ] || flags+=(--reserved)
  if [ -n "$service_account" ]; then
    flags+=(
      --service-account="$service_account"
      --scopes=https://www.googleapis.com/auth/cloud-platform
    )
  fi
  [ -z "$network" ] || flags+=(--network="$network")
  [ -z "$subnetwork" ] || flags+=(--subnetwork="$subnetwork")
  [ -z "$internal_ip" ] || flags+=(--internal-ips)
  [ -z "$disk" ] || flags+=(--data-disk="source=$disk,mode=read-only")
  queued create "${flags[@]}"
}

create() {
  if [ -n "$dry_run" ]; then
    note "looks whether $name is there; ACTIVE is reused, waiting is waited for"
    queued describe --format='value(state.state)'
    note "if it was preempted, failed or is suspended"
    queued delete --force --quiet
    note "if it is not there, or has just been deleted"
    request
    note "every $poll s until it says ACTIVE, $wait_minutes minutes at most"
    queued describe --format='value(state.state)'
    return
  fi
  local now before='' waited=0
  while :; do
    now=$(slice_state) || now='not known'
    [ "$now" = "$before" ] || say "$name is $now"
    case $now in
      ACTIVE) return ;;
      NONE) request ;;
      LOST | SUSPENDED | FAILED) queued delete --force --quiet ;;
    esac
    before=$now
    if [ "$waited" -ge "$((wait_minutes * 60))" ]; then
      fail "$name is $now after $wait_minutes minutes; it stays in the queue:" \
        "start the same command again, or delete it"
    fi
    sleep "$poll"
    waited=$((waited + poll))
  done
}

upload() { # files of this machine to every host's home
  local flags=(--worker=all)
  [ -z "$internal_ip" ] || flags+=(--internal-ip)
  run gcloud compute tpus tpu-vm scp "$@" "$name:" "${where[@]}" "${flags[@]}"
}

install_package() {
  local archive=${HOME:?}/.cache/nulls/$name.tar.gz
  local wanted=nulls/source'[tpu,gcs]'
  local files=("$root/launch/restart.sh") unpack=''
  if [ -n "$package" ]; then
    wanted=$package
  else
    # Once: a run that `keep` continues does not change its code on the way.
    if [ -z "$archived" ]; then
      run mkdir -p "${archive%/*}"
      run git -C "$root" archive --format=tar.gz --output="$archive" HEAD
      archived=yes
    fi
    files+=("$archive")
    unpack="tar -xzf $name.tar.gz -C nulls/source && "
  fi
  upload "${files[@]}"
  # uv brings a Python that the image may not have.
  on_all "rm -rf nulls/source && mkdir -p nulls/source && mv restart.sh \
nulls/ && ${unpack}python3 -m pip \
install --quiet --user uv && python3 -m uv venv --quiet --allow-existing \
--python $(quote "$python") nulls/venv && python3 -m uv pip install --quiet \
--python nulls/venv/bin/python $(quote "$wanted")"
}

in_package() { # a command, where the package and its configs are
  # shellcheck disable=SC2016 # $HOME and $PATH are the hosts'
  on_all 'cd nulls/source && PATH="$HOME/nulls/venv/bin:$PATH" '"$(quote "$@")"
}

start_program() {
  in_package bash ../restart.sh start "../jobs/$job" \
    "$(run_of "${program[@]}")" "$max_restarts" -- "${program[@]}"
}

program_states() {
  on_all "$(quote bash nulls/restart.sh state "nulls/jobs/$job")"
}

stop_program() {
  on_all "$(quote bash nulls/restart.sh stop "nulls/jobs/$job")"
}

# Watches the program. 0: all hosts ended well. 1: one failed. 3: the slice is
# gone. 4: a host was started anew, or its program killed, and is needed again.
watch() {
  local now states silent=0
  while :; do
    sleep "$poll"
    now=$(slice_state) || continue
    [ "$now" = ACTIVE ] || return 3
    if ! states=$(program_states 2>/dev/null | grep '^nulls-job: '); then
      silent=$((silent + 1))
      [ "$silent" -lt "$patience" ] || return 4
      continue
    fi
    silent=0
    if printf '%s\n' "$states" |
      grep -Ev ' (running|started|not started|ended (0|75|137))$' >&2; then
      say "the hosts above failed; the others are told to stop"
      stop_program >/dev/null
      return 1
    fi
    case $states in
      *' ended 137'* | *' not started'*) return 4 ;;
      *' running'* | *' started'*) ;;
      *' ended 75'*)
        say "stopped, as asked; the same command goes on from the checkpoint"
        return 0
        ;;
      *) return 0 ;;
    esac
  done
}

keep() {
  if [ -n "$dry_run" ]; then
    create
    note "unless the program runs there already"
    install_package
    start_program
    note "every $poll s until all hosts have ended; from the top if the slice" \
      "is lost, at most $max_restarts times in a row without a new checkpoint"
    program_states
    return
  fi
  local step last=-1 count=0 status run_dir
  run_dir=$(run_of "${program[@]}")
  while :; do
    create
    if ! program_states 2>/dev/null | grep -q '^nulls-job: .* running$'; then
      install_package
    fi
    start_program || say "not every host could be reached; asking again"
    status=0
    watch || status=$?
    [ "$status" -ge 3 ] || return "$status"
    step=$(newest_step "$run_dir")
    if [ "$step" -gt "$last" ]; then count=0; fi
    last=$step
    count=$((count + 1))
    if [ "$count" -gt "$max_restarts" ]; then
      fail "$name was lost $count times in a row without a new checkpoint;" \
        "save more often (--checkpoint.every-steps), or leave --spot out"
    fi
    say "a host or the slice is gone; start $count of at most $max_restarts" \
      "in a row without a new checkpoint (newest step $step)"
  done
}

follow() {
  # shellcheck disable=SC2016 # $(uname -n) is the hosts'
  on_all "$(quote tail -n 100 -F "nulls/jobs/$job/log")"\
' | sed -u "s/^/$(uname -n): /"'
}

give_back() {
  if [ -n "$yes" ]; then
    queued delete --force --quiet
  else
    queued delete --force
  fi
}

main() {
  parse "$@"
  check
  need gcloud "install the Google Cloud CLI"
  where=(--zone="$zone")
  [ -z "$project" ] || where+=(--project="$project")
  case $action in
    create) create ;;
    install) install_package ;;
    exec) in_package "${program[@]}" ;;
    run) start_program ;;
    keep) keep ;;
    status)
      queued describe --format='value(state.state)'
      program_states
      ;;
    logs) follow ;;
    stop) stop_program ;;
    delete) give_back ;;
  esac
}

main "$@"
