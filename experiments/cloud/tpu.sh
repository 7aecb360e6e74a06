#!/usr/bin/env bash
# Runs a cdjax launcher on a Cloud TPU slice held by a queued resource, and leaves nothing behind.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
    cat <<'END'
usage: tpu.sh create|setup|run|watch|delete --name=NAME --zone=ZONE [flags] [-- MODULE ARGUMENTS]

  create   asks for a slice and waits until it is ACTIVE; deletes the request if that fails
  setup    installs this checkout on every worker
  run      runs `python -m MODULE ARGUMENTS` on every worker and attaches to its output
  watch    create, setup and run; recreates the slice after each preemption, until the run is
           done; deletes the slice when it leaves, whatever the reason
  delete   deletes the slice and its queued resource, and checks that they are gone

where (each also from the environment variable in brackets)
  --name=NAME         of the queued resource and of its node        [CDJAX_TPU_NAME]
  --zone=ZONE         such as us-west4-a                            [CDJAX_ZONE]
  --project=ID        gcloud's own default where absent             [CDJAX_PROJECT]
what (create, watch)
  --type=TYPE         such as v5litepod-16, v5p-32, v6e-16          [CDJAX_TPU_TYPE]
  --runtime=VERSION   the one that fits TYPE where absent
  --tier=TIER         spot (default), on-demand or reserved
  --wait=DURATION     give the request up after that long, such as 6h; forever where absent
  --service-account=EMAIL   the identity of the workers; the project's default where absent
code (setup, watch)
  --ref=REF           git commit to install, HEAD where absent
  --tarball=FILE      a .tar.gz of the checkout, in place of --ref
  --models=gs://PATH  folder of checkpoints, copied to ~/models of every worker
run (watch)
  --poll=SECONDS      between two looks at the slice (default 30)
  --restarts=N        crashes in a row that are forgiven (default 3)
  --keep              leave the slice when watch leaves

A command is started as `tpu.sh watch ... -- experiments.distill --flagfile=... --workdir=gs://...`
(or with the --output, --target or --circuits of a launcher without a workdir, in a bucket too);
its folder is the checkout, so `--teacher=../models/NAME` names a copied checkpoint.
exit status: 0 done; 1 wrong input, not to be tried again; 75 (run only) preempted after saving, the
same command continues; anything else is a crash. watch goes on after 75 by itself.
END
}

say() { printf '%s tpu.sh: %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
fail() { printf 'tpu.sh: %s\n' "$*" >&2; exit 1; }

# ---------------------------------------------------------------- flags

read_flags() {
    name=${CDJAX_TPU_NAME:-} zone=${CDJAX_ZONE:-} project=${CDJAX_PROJECT:-}
    type=${CDJAX_TPU_TYPE:-} runtime='' tier=spot wait='' service_account=''
    ref=HEAD tarball='' models='' poll=30 restarts=3 launcher=''
    subcommand=${1:-}
    while (($#)); do
        case $1 in
            --help | help) usage; exit 0 ;;
            --name=*) name=${1#*=} ;;
            --zone=*) zone=${1#*=} ;;
            --project=*) project=${1#*=} ;;
            --type=*) type=${1#*=} ;;
            --runtime=*) runtime=${1#*=} ;;
            --tier=*) tier=${1#*=} ;;
            --wait=*) wait=${1#*=} ;;
            --service-account=*) service_account=${1#*=} ;;
            --ref=*) ref=${1#*=} ;;
            --tarball=*) tarball=${1#*=} ;;
            --models=*) models=${1#*=} ;;
            --poll=*) poll=${1#*=} ;;
            --restarts=*) restarts=${1#*=} ;;
            --keep) keep=yes ;;
            --) shift; launcher=("$@"); break ;;
            "$subcommand") ;;
            *) fail "unknown argument $1: flags are written --flag=VALUE; see --help" ;;
        esac
        shift
    done
}

check() { # check VALUE PATTERN FLAG EXPECTED: fails unless the whole value matches
    [[ $1 =~ ^($2)$ ]] || fail "$3=$1: expected $4"
}

check_flags() {
    case $subcommand in
        create | setup | run | watch | delete) ;;
        *) fail "subcommand '$subcommand': expected create, setup, run, watch or delete; see --help" ;;
    esac
    check "$name" '[a-z]([-a-z0-9]{0,61}[a-z0-9])?' --name 'lower-case letters, digits and dashes'
    check "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' --zone 'a zone such as us-west4-a'
    check "$poll" '[0-9]+(\.[0-9]+)?' --poll 'seconds'
    check "$restarts" '[0-9]+' --restarts 'a count'
    where=("--zone=$zone" --quiet)
    [[ -z $project ]] || where+=("--project=$project")

    if [[ $subcommand == create || $subcommand == watch ]]; then
        check "$type" 'v(4|5litepod|5p|6e)-[0-9]+' --type 'a type such as v5litepod-16, v5p-32 or v6e-16'
        check "$tier" 'spot|on-demand|reserved' --tier 'spot, on-demand or reserved'
        check "$wait" '|[0-9]+[smhd]' --wait 'a duration such as 6h'
        case $type in
            v4-*) runtime=${runtime:-tpu-ubuntu2204-base} ;;
            v5litepod-*) runtime=${runtime:-v2-alpha-tpuv5-lite} ;;
            v5p-*) runtime=${runtime:-v2-alpha-tpuv5} ;;
            v6e-*) runtime=${runtime:-v2-alpha-tpuv6e} ;;
        esac
    fi
    if [[ $subcommand == setup || $subcommand == watch ]]; then
        check "$models" '|gs://[-_./[:alnum:]]+' --models 'a folder of a bucket, gs://BUCKET/PATH'
        [[ -z $tarball || -f $tarball ]] || fail "--tarball=$tarball: no such file"
        [[ -n $tarball ]] || git -C "$here" rev-parse --quiet --verify "$ref^{commit}" >/dev/null ||
            fail "--ref=$ref: no such commit here; pass --tarball=FILE outside a git checkout"
    fi
    if [[ $subcommand == run || $subcommand == watch ]]; then
        check "${launcher[0]:-}" 'experiments\.[a-z_]+' MODULE \
            'a launcher after --, as in: -- experiments.distill --workdir=gs://BUCKET/RUN'
        # evaluate, plan and convert have no workdir; evaluate writes beside the circuits by default.
        [[ " ${launcher[*]} " =~ ' '--(workdir|output|target|circuits)=gs:// ]] ||
            fail 'no --workdir=gs://... (or --output, --target) after --: the disk of a TPU VM goes with it'
    fi
    command -v gcloud >/dev/null || fail 'gcloud is not on the PATH: install the Google Cloud CLI'
}

# ---------------------------------------------------------------- one step each

# Prints the state of the queued resource; ABSENT where there is none, UNKNOWN where the service did
# not answer. An ACTIVE one whose node is not READY prints NODE_ and the state of its node.
slice_state() {
    local answer
    if answer=$(gcloud compute tpus queued-resources describe "$name" \
        '--format=value(state.state)' "${where[@]}" 2>"$scratch/error"); then
        if [[ $answer == ACTIVE ]]; then
            answer=$(gcloud compute tpus tpu-vm describe "$name" \
                '--format=value(state)' "${where[@]}" 2>"$scratch/error") || answer=UNKNOWN
            case $answer in
                READY) answer=ACTIVE ;;
                UNKNOWN) ;;
                *) answer=NODE_$answer ;;
            esac
        fi
        printf '%s\n' "$answer"
    elif grep -q NOT_FOUND "$scratch/error"; then
        echo ABSENT
    else
        sed 's/^/gcloud: /' "$scratch/error" >&2
        echo UNKNOWN
    fi
}

# Waits for a child in a way that lets a trap run at once: bash delays traps of a foreground command.
attend() {
    "$@" &
    child=$!
    local status=0
    wait "$child" || status=$?
    child=''
    return "$status"
}

# A suspended or failed queued resource still counts against the quota, and blocks its name.
delete_slice() {
    local try
    for try in 1 2 3 4 5; do
        [[ $(slice_state) != ABSENT ]] || return 0
        say "deleting $name (try $try)"
        gcloud compute tpus queued-resources delete "$name" --force "${where[@]}" >&2 || true
        [[ $(slice_state) != ABSENT ]] || return 0
        sleep "$poll"
    done
    say "$name COULD NOT BE DELETED and may cost money; delete it by hand:" \
        "gcloud compute tpus queued-resources delete $name --force ${where[*]}"
    return 1
}

# Returns 0 when the slice is ACTIVE, 69 when this request never will be.
create_slice() {
    local state last=''
    local request=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime")
    case $tier in
        spot) request+=(--spot) ;;
        reserved) request+=(--reserved) ;;
    esac
    [[ -z $wait ]] || request+=("--valid-until-duration=$wait")
    [[ -z $service_account ]] || request+=("--service-account=$service_account")
    while :; do
        state=$(slice_state)
        [[ $state == "$last" ]] || say "$name is $state"
        last=$state
        case $state in
            ACTIVE) return 0 ;;
            ABSENT)
                owned=yes # before the call, during which a signal may come
                gcloud compute tpus queued-resources create "$name" "${request[@]}" "${where[@]}" >&2 ||
                    { say "$type in $zone was refused"; return 69; }
                ;;
            WAITING_FOR_RESOURCES | ACCEPTED | PROVISIONING | CREATING | NODE_CREATING | UNKNOWN)
                attend sleep "$poll"
                ;;
            *) return 69 ;;
        esac
    done
}

# Packs once: what is installed after a preemption is what was installed before, wherever HEAD is.
pack() {
    if [[ -n $tarball ]]; then
        cp "$tarball" "$scratch/cdjax.tar.gz"
    else
        git -C "$here/../.." archive --format=tar.gz --output="$scratch/cdjax.tar.gz" "$ref"
        [[ -z $(git -C "$here/../.." status --porcelain) ]] ||
            say "uncommitted changes stay here: $ref is what gets installed"
    fi
}

setup_workers() {
    say "installing on the workers of $name"
    attend gcloud compute tpus tpu-vm scp "$scratch/cdjax.tar.gz" "$here/worker.sh" "$name:" \
        --worker=all "${where[@]}" &&
        attend gcloud compute tpus tpu-vm ssh "$name" --worker=all \
            "--command=bash worker.sh setup $models" "${where[@]}" || return 69
}

# gcloud reports one status for many workers, and 1 for its own troubles too; so each worker says
# its own in its last line. A crash outranks a 1, for a peer's crash may surface as an error.
run_job() {
    local command reader status=0 answer=255 # 255: the connection was lost
    command=$(printf ' %q' "${launcher[@]}")
    say "running python -m$command"
    rm -f "$scratch/pipe"
    mkfifo "$scratch/pipe"
    tee "$scratch/output" <"$scratch/pipe" &
    reader=$!
    attend gcloud compute tpus tpu-vm ssh "$name" --worker=all \
        "--command=bash worker.sh run$command" "${where[@]}" >"$scratch/pipe" || status=$?
    wait "$reader" || true
    ((status)) || return 0
    while read -r status; do
        case $answer/$status in
            75/* | */0) ;;
            */75) answer=75 ;;
            255/1) answer=1 ;;
            */1) ;;
            *) answer=$status ;;
        esac
    done < <(sed -n 's/^cdjax: exit status \([0-9]*\) on .*/\1/p' "$scratch/output")
    return "$answer"
}

# ---------------------------------------------------------------- subcommands

watch() {
    local status state started failures=0 ready=''
    while :; do
        started=$SECONDS status=0
        attempt || status=$?
        ((status)) || { say 'the run is done'; return 0; }
        ((SECONDS - started < 600)) || failures=0
        attend sleep "$poll" # a preemption shows in the state some seconds after the workers die
        state=$(slice_state)
        case $state/$status in
            ACTIVE/1) fail 'the launcher refused its input (status 1): not tried again' ;;
            ACTIVE/75) say 'saved and stopped: starting it again' ;;
            ACTIVE/* | UNKNOWN/* | FAILED/* | ABSENT/69) failures=$((failures + 1)) ;;
            ABSENT/* | DELETING/*) fail "$name was deleted by someone else: not recreated" ;;
        esac
        ((failures <= restarts)) || { say "gave up after $failures failures in a row"; return 70; }
        if [[ $state != ACTIVE && $state != UNKNOWN ]]; then
            say "$name is $state: recreating it"
            ready=''
            delete_slice || return 70
        fi
    done
}

# Every step is idempotent: a job that still runs is joined, not started twice.
attempt() {
    create_slice || return
    [[ -n $ready ]] || setup_workers || return
    ready=yes
    run_job
}

leave() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP # a second Ctrl-C must not stop the deletion
    [[ -z $child ]] || kill "$child" 2>/dev/null || true
    if [[ -n $owned && -z $keep ]]; then
        delete_slice || status=70
    fi
    rm -rf "$scratch"
    exit "$status"
}

child='' owned='' keep=''
scratch=$(mktemp -d)
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

read_flags "$@"
check_flags
[[ $subcommand == delete || $(slice_state) != UNKNOWN ]] ||
    fail "gcloud does not answer for zone $zone: log in, and check --project and --zone"
case $subcommand in
    create)
        create_slice || fail "$name is $(slice_state): asked for $type in $zone; check quota and type"
        owned=''
        say "$name is ready; it costs money until: tpu.sh delete --name=$name --zone=$zone"
        ;;
    setup)
        pack
        setup_workers
        ;;
    run) run_job ;;
    watch)
        pack
        owned=yes
        watch
        ;;
    delete)
        delete_slice || exit 70
        say "$name is gone"
        ;;
esac
