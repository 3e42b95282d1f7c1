# shellcheck shell=bash
# Sourced by tpu.sh, gke.sh, slurm.sh and local.sh: how they read their words,
# and what they say, print and refuse.

script=${0##*/}
dry_run='' action='' program=()

# What a script takes: the variables of its words before the program, flags
# with a value, flags without.
operands=(action) value_flags=() switches=()

refuse() { # what is wrong, and what to do; as the `nulls` command does it
  printf '%s: %s\n' "$script" "$*" >&2
  exit 2
}

fail() { # the machine, not the input
  printf '%s: %s\n' "$script" "$*" >&2
  exit 1
}

say() {
  printf '%s: %s\n' "$script" "$*" >&2
}

# Prints words as a shell reads them back, quoted where they must be.
quote() {
  local word flag out='' end="'\\''" apostrophe="'"
  for word in "$@"; do
    flag=''
    case $word in
      --*=*)
        flag=${word%%=*}=
        word=${word#*=}
        ;;
    esac
    case $flag in
      *[!a-z=-]*) # not a flag's name after all
        word=$flag$word
        flag=''
        ;;
    esac
    case $flag$word in
      '' | *[!A-Za-z0-9_./:@%+,=-]*) word="'${word//$apostrophe/$end}'" ;;
    esac
    out="$out${out:+ }$flag$word"
  done
  printf '%s\n' "$out"
}

# Runs a command, or prints it with --dry-run.
run() {
  if [ -n "$dry_run" ]; then
    quote "$@"
  else
    "$@"
  fi
}

# With --dry-run, says in a comment when the next command runs.
note() {
  if [ -n "$dry_run" ]; then
    printf '# %s\n' "$*"
  fi
}

need() { # the program that a script drives, and where it is from
  if [ -z "$dry_run" ] && ! command -v "$1" >/dev/null; then
    fail "$1 is not installed; $2"
  fi
}

# Reads a script's words into the variables that are named as its flags:
# `--run-dir X` sets run_dir=X, `--dry-run` sets dry_run=yes.
parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) help_text && exit 0 ;;
      --)
        program=("${@:2}")
        return
        ;;
      -*)
        if listed "$1" ${value_flags[@]+"${value_flags[@]}"}; then
          [ $# -gt 1 ] || refuse "$1 needs a value; see $script --help"
          set_flag "$1" "$2"
          shift
        elif listed "$1" --dry-run ${switches[@]+"${switches[@]}"}; then
          set_flag "$1" yes
        else
          refuse "no flag $1; see $script --help"
        fi
        ;;
      *) set_operand "$1" ;;
    esac
    shift
  done
}

listed() { # a word, and those that it may be
  local word
  for word in "${@:2}"; do
    if [ "$1" = "$word" ]; then return; fi
  done
  return 1
}

set_flag() { # flag, value
  local variable=${1#--}
  printf -v "${variable//-/_}" '%s' "$2"
}

set_operand() { # the next word that is no flag
  local variable
  for variable in "${operands[@]}"; do
    if [ -z "${!variable}" ]; then
      printf -v "$variable" '%s' "$1"
      return
    fi
  done
  refuse "'$1' is one word too many; a program stands after --"
}

check_action() { # those that there are
  [ -n "$action" ] || refuse "no action given; see $script --help"
  listed "$action" "$@" || refuse "no action '$action'; see $script --help"
}

check_one_of() { # flags
  local flag variable given=''
  for flag in "$@"; do
    variable=${flag#--}
    variable=${variable//-/_}
    if [ -n "${!variable}" ]; then
      [ -z "$given" ] || refuse "$given and $flag: choose one"
      given=$flag
    fi
  done
}

check_number() { # flag, value
  case $2 in
    '' | *[!0-9]*) refuse "$1 $2: not a whole number" ;;
  esac
}

# Names of things in a cloud: they become parts of paths and labels.
check_name() { # what it is, value
  case $2 in
    '') refuse "no $1 given; see $script --help" ;;
    [!a-z]* | *[!a-z0-9-]* | *-)
      refuse "$1 '$2': lower-case letters, digits and inner hyphens only," \
        "a letter first"
      ;;
  esac
}

check_program_of() { # the actions that take a program
  if listed "$action" "$@"; then
    check_program ${program[@]+"${program[@]}"}
  elif [ ${#program[@]} -gt 0 ]; then
    refuse "$action takes no program after --"
  fi
}

# A command line is seen by every user of a machine and kept in histories.
check_program() {
  if [ $# -eq 0 ]; then
    refuse "no program; give it after --, as in: -- nulls train ..."
  fi
  local word
  for word in "$@"; do
    case $word in
      *$'\n'*) refuse "a line break in the program's words; leave it out" ;;
    esac
    # Only what stands before the first `=` can be a variable's name.
    case $(printf '%s' "${word%%=*}" | tr '[:lower:]' '[:upper:]') in
      "$(printf '%s' "$word" | tr '[:lower:]' '[:upper:]')") ;;
      *TOKEN | *SECRET* | *PASSWORD* | *CREDENTIAL* | *API_KEY | *ACCESS_KEY*)
        refuse "${word%%=*}=...: a secret in a command line; give the" \
          "machines' service account the right instead, or a file"
        ;;
    esac
  done
}

# The value of --run among a program's words, for counting its checkpoints.
run_of() {
  local found=''
  while [ $# -gt 0 ]; do
    case $1 in
      --run) found=${2:-} ;;
      --run=*) found=${1#--run=} ;;
      *' --run '*) # in the words of another shell, as in: bash -c '...'
        found=${1##* --run }
        found=${found%% *}
        ;;
    esac
    shift
  done
  printf '%s' "$found"
}

help_text() { # the comment at the head of a script
  sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p;};}' "$0"
}
