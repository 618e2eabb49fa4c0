# Sourced by the launch scripts, not run: what they take, how they refuse, and the vLLM server that GCPO's rollouts come from.
# shellcheck shell=sh disable=SC2034  # the scripts use what is set here

BIN=${BIN:-.venv/bin}
PORT=${PORT:-29500}          # of the training's first process
MODEL_LEN=${MODEL_LEN:-8192} # tokens of a prompt with two images and its answer, for the server
PATIENCE=${PATIENCE:-1800}   # seconds until the server must be healthy

die() {
    echo "error: $*" >&2
    exit 2
}

# The command as it could be typed.
line() {
    typed=
    for word; do
        case $word in
        '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'$(printf %s "$word" | sed "s/'/'\\\\''/g")'" ;;
        esac
        typed="$typed${typed:+ }$word"
    done
    printf '%s\n' "$typed"
}

# CONFIG [--gpus N] [--server-gpus M] [--hostfile FILE] [--dry-run]
read_arguments() {
    config='' gpus='' server_gpus=2 hostfile='' dry_run=''
    while [ $# -gt 0 ]; do
        case $1 in
        --gpus | --server-gpus | --hostfile)
            [ $# -ge 2 ] || die "$1 needs a value."
            case $1 in
            --gpus) gpus=$2 ;;
            --server-gpus) server_gpus=$2 ;;
            --hostfile) hostfile=$2 ;;
            esac
            shift
            ;;
        --dry-run) dry_run=1 ;;
        -*) die "there is no option $1; there are --gpus N, --server-gpus M, --hostfile FILE and --dry-run." ;;
        *)
            [ -z "$config" ] || die "one config is taken, not '$config' and '$1'."
            config=$1
            ;;
        esac
        shift
    done
    [ -n "$config" ] || die "name a config, such as configs/qwen2_5_vl_7b/sft.yaml."
    [ -f "$config" ] || die "there is no config at $config; the examples are in configs/."
    [ -x "$BIN/python" ] || die "there is no $BIN/python; run 'make setup' first, on every node or in a shared folder."
    [ -n "$dry_run" ] || [ -x "$BIN/deepspeed" ] || die "deepspeed is not installed in $BIN; run 'make setup' first."
    for number in "${gpus:-1}" "$server_gpus"; do
        case $number in
        '' | 0 | *[!0-9]*) die "'$number' is no number of GPUs." ;;
        esac
    done
    if [ -n "$hostfile" ]; then
        [ -f "$hostfile" ] || die "there is no hostfile at $hostfile; write a line 'name slots=8' for each node."
        first_host=$(sed -n 's/^ *\([^# ][^ ]*\) .*slots=.*/\1/p' "$hostfile" | head -n 1)
        [ -n "$first_host" ] || die "$hostfile names no host; write a line 'name slots=8' for each node."
        gpus=$(sed -n "s/^ *$first_host .*slots=\([0-9]*\).*/\1/p" "$hostfile" | head -n 1)
        [ -n "$dry_run" ] || command -v pdsh >/dev/null 2>&1 || die "several nodes by hostfile need pdsh; install it, or use the .sbatch files under Slurm."
    fi
}

# A key of the config, empty where it is not set.
value() {
    "$BIN/python" -c '
import sys, yaml
print((yaml.safe_load(open(sys.argv[1])) or {}).get(sys.argv[2]) or "")' "$config" "$1" || die "$config cannot be read as YAML."
}

count_gpus() {
    [ -z "$gpus" ] || return 0
    gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
    [ "$gpus" -gt 0 ] || die "nvidia-smi lists no GPU; run this on a GPU machine, or give --gpus N."
}

# 2 5 → 2,3,4
numbers() { seq -s , "$1" "$(($2 - 1))"; }

# Whether the rollouts come from a server, and whether this script starts it: it does for an address on this machine.
read_server() {
    server=$(value vllm_server)
    case $server in
    '') own_server='' ;;
    http://127.0.0.1:* | http://localhost:*)
        own_server=1
        export NO_PROXY="${NO_PROXY:+$NO_PROXY,}127.0.0.1,localhost" no_proxy="${no_proxy:+$no_proxy,}127.0.0.1,localhost"
        ;;
    http://* | https://*) own_server='' ;;
    *) die "vllm_server '$server' in $config is no address; write http://127.0.0.1:8000." ;;
    esac
    [ -z "$own_server" ] || [ "$server_gpus" -lt "$gpus" ] ||
        die "the vLLM server is to have $server_gpus of this node's $gpus GPUs, which leaves none to train on; give a lower --server-gpus, or unset vllm_server."
}

healthy() {
    "$BIN/python" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/health", timeout=5)' "$server" 2>/dev/null
}

# Hands the server's command to "line" or "start_in_background".
# trl's colocate mode is not offered: with two images in a prompt it puts the second into the first one's place; server mode places both right.
server_command() {
    handle=$1
    base=$(value base)
    address=${server#http://}
    port=${address##*:}
    set -- env "CUDA_VISIBLE_DEVICES=$(numbers 0 "$server_gpus")" "$BIN/trl" vllm-serve --model "$base" --host 127.0.0.1 --port "${port%%/*}" \
        --tensor-parallel-size "$server_gpus" --max-model-len "$MODEL_LEN" --limit-mm-per-prompt '{"image": 2, "video": 0}'
    "$handle" "$@"
}

start_in_background() {
    "$@" >"$server_log" 2>&1 &
    server_process=$!
}

start_server() {
    [ -n "$own_server" ] || return 0
    if [ -n "$dry_run" ]; then
        server_command line
        echo "# wait until $server/health answers, train, stop the server"
        return 0
    fi
    "$BIN/python" -c 'import importlib.util as i, sys; sys.exit(i.find_spec("vllm") is None)' ||
        die "vllm is not installed, and vllm_server is set; install it: $BIN/python -m pip install -c constraints.txt -e '.[serve]'"
    ! healthy || die "something answers at $server already; stop it, or set another port in vllm_server."
    server_log=${SERVER_LOG:-$(value out).vllm.log}
    mkdir -p "$(dirname "$server_log")"
    server_command start_in_background
    trap stop_all EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    echo "the vLLM server starts (process $server_process, log in $server_log)"
}

wait_for_server() {
    [ -n "$server" ] || return 0
    [ -z "$dry_run" ] || return 0
    waited=0
    until healthy; do
        [ -z "$own_server" ] || kill -0 "$server_process" 2>/dev/null || die "the vLLM server ended before it was healthy; its last words are in $server_log."
        [ "$waited" -lt "$PATIENCE" ] || die "no vLLM server was healthy at $server within $PATIENCE seconds."
        sleep "${PAUSE:-5}"
        waited=$((waited + ${PAUSE:-5}))
    done
    echo "the vLLM server at $server is healthy"
}

stop_all() {
    trap - EXIT INT TERM
    for process in ${training_process:-} ${server_process:-}; do
        kill "$process" 2>/dev/null || true
    done
    wait
}

# The training's command; in the foreground where nothing has to be stopped after it. The exit code is the training's.
train() {
    if [ -n "$dry_run" ]; then
        line "$@"
    elif [ -z "$own_server" ]; then
        exec "$@"
    else
        "$@" &
        training_process=$!
        code=0
        wait "$training_process" || code=$?
        training_process=
        exit "$code"
    fi
}
