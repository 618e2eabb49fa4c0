# Sourced by the .sbatch files, not run: the nodes of the allocation, and one torchrun on each of them.
# shellcheck shell=sh disable=SC2154  # config, gpus, server_gpus and own_server are common.sh's

read_nodes() {
    [ -n "${SLURM_JOB_NODELIST:-}" ] || die "this runs inside a Slurm job: sbatch --nodes 2 launch/….sbatch CONFIG."
    [ -z "$hostfile" ] || die "Slurm knows the hosts; leave --hostfile out."
    first_host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    [ -n "$first_host" ] || die "scontrol names no host of this job."
    gpus=${gpus:-${SLURM_GPUS_ON_NODE:-}}
    count_gpus
}

# The first node's first GPUs are the server's, where there is one. Ranks are fixed, so that rank 0, which talks to the server, is beside it.
# shellcheck disable=SC2016  # for the shell on each node
NODE='
gpus=$1 taken=$2
shift 2
[ "$SLURM_NODEID" = 0 ] || taken=0
[ "$taken" = 0 ] || export CUDA_VISIBLE_DEVICES="$(seq -s , "$taken" "$((gpus - 1))")"
exec "$@" --node_rank "$SLURM_NODEID" --nproc_per_node "$((gpus - taken))" -m "$MODULE" --config "$CONFIG"'

train_on_nodes() {
    export MODULE="$1" CONFIG="$config"
    taken=0
    [ -z "$own_server" ] || taken=$server_gpus
    [ -z "$dry_run" ] || echo "# MODULE=$MODULE CONFIG=$CONFIG on every node"
    train srun --ntasks-per-node 1 --kill-on-bad-exit=1 sh -c "$NODE" node "$gpus" "$taken" \
        "$BIN/torchrun" --nnodes "${SLURM_NNODES:-1}" --master_addr "$first_host" --master_port "$PORT"
}
