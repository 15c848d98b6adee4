#!/usr/bin/env bash
# Checks and measures this project on a machine with a GPU and without Rust, within ten minutes:
#
#   scripts/gpu_pack.sh gpu_bins.tar.xz                 # where Rust is
#   scripts/gpu_check.sh --bins gpu_bins.tar.xz --out DIR   # where the GPU is, in a checkout of the same commit
#
# Correctness comes first and never keeps the measurements from running. Each section has a time limit; after each,
# DIR/report.json, DIR/report.txt and DIR/logs.tar.gz are written anew, so that a crash loses one section. Exit
# code: 0 if every section held, 1 if one did not, 2 for wrong arguments.
#
#   --seconds N     all of it ends within N seconds (570)
#   --only A,B      only these sections;  --skip A,B  all but these
#   --tiny          small shapes, PyTorch on the CPU: whether it runs, not how fast
#
# Needs bash, timeout, tar and python3; uses nvidia-smi, compute-sanitizer, ncu, PyTorch and timm where they are.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

bins='' out='' seconds=570 only='' skip='' tiny=''
usage() {
    echo "gpu_check.sh: $1; usage: --bins FILE-OR-FOLDER --out FOLDER [--seconds N] [--only A,B] [--skip A,B] [--tiny]" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
        --tiny) tiny=1 && shift ;;
        --bins | --out | --seconds | --only | --skip)
            [ $# -ge 2 ] || usage "$1 wants a value"
            case $1 in
                --bins) bins=$2 ;;
                --out) out=$2 ;;
                --seconds) seconds=$2 ;;
                --only) only=$2 ;;
                --skip) skip=$2 ;;
            esac
            shift 2
            ;;
        *) usage "unknown argument $1" ;;
    esac
done
[ -e "$bins" ] || usage "--bins names no file or folder: '$bins'"
[ -n "$out" ] || usage '--out is missing'
[[ $seconds =~ ^[0-9]+$ ]] || usage "--seconds wants a number, not '$seconds'"
python3=$(command -v python3) || usage 'python3 was not found'
mkdir -p "$out" || exit 2
out=$(realpath "$out")

begun=$SECONDS
work=$(mktemp -d)
watcher=''
finish() {
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT
if [ -f "$bins" ]; then
    mkdir "$work/bin"
    # Python unpacks what tar cannot where xz is missing.
    tar -C "$work/bin" -xf "$bins" 2>/dev/null || "$python3" -m tarfile -e "$bins" "$work/bin" || usage "$bins cannot be unpacked"
    bins=$work/bin
fi
bins=$(realpath "$bins")
mkdir "$work/sections" "$work/json"
touch "$work/clocks.csv" "$work/about"
cp "$bins/about" "$work/about" 2>/dev/null

export L2P_REQUIRE_GPU=1
export L2P_GOLDEN_DIR=$PWD/tests/fixtures/golden
export PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
export RUST_BACKTRACE=0 PYTHONUNBUFFERED=1
# A compiled model is thrown away with the machine.
export TORCHINDUCTOR_CACHE_DIR=$work/inductor

# The library that PyTorch brings, if the loader does not find one by itself.
if [ -z "${L2P_CUBLASLT:-}" ]; then
    L2P_CUBLASLT=$("$python3" - <<'PYTHON'
import ctypes, glob, sysconfig

for name in ("libcublasLt.so.13", "libcublasLt.so.12"):
    try:
        ctypes.CDLL(name)
        print(name)
        break
    except OSError:
        found = glob.glob(f"{sysconfig.get_paths()['purelib']}/nvidia/*/lib/{name}")
        if found:
            print(found[0])
            break
PYTHON
    )
fi
if [ -n "$L2P_CUBLASLT" ]; then export L2P_CUBLASLT; else unset L2P_CUBLASLT; fi

# Clocks, watts and degrees are read, never set.
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader,nounits \
        -lms 250 >"$work/clocks.csv" 2>/dev/null &
    watcher=$!
fi

report() {
    "$python3" scripts/gpu_report.py "$work" "$out/report.json" "$out/report.txt"
    # Files may grow meanwhile.
    tar -C "$work" --warning=no-file-changed -czf "$out/logs.tar.gz" sections json clocks.csv about
}

wanted() {
    [[ -z $only || ,$only, == *,$1,* ]] && [[ ,$skip, != *,$1,* ]]
}

# Seconds kept for what comes after.
reserve=10

# section NAME LIMIT [COMMAND...]: runs the function NAME, or a command, for at most LIMIT seconds, with its output in a
# log.
section() {
    local name=$1 limit=$2 from=$SECONDS status=ok code=0 left
    shift 2
    wanted "$name" || return 0
    [ $# -gt 0 ] || set -- bash -c "$name"
    left=$((seconds - (SECONDS - begun) - reserve))
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        status='no time left'
    else
        timeout -k 5 "$limit" "$@" >"$work/sections/$name.log" 2>&1 </dev/null
        code=$?
        case $code in
            0) ;;
            124 | 137) status='out of time' ;;
            *) status=failed ;;
        esac
    fi
    printf '{"name": "%s", "status": "%s", "exit_code": %d, "seconds": %d, "limit": %d}\n' \
        "$name" "$status" "$code" $((SECONDS - from)) "$limit" >"$work/sections/$name.json"
    printf '%4d s  %-12s %s\n' $((SECONDS - begun)) "$name" "$status"
    report
}

# ---- The sections. Each is a function that a shell of its own runs. ----

# Runs a command; what fails is remembered in `code`, and the rest goes on.
try() { "$@" || { code=1 && echo "failed: $*"; }; }

have() { command -v "$1" || { echo "$1 was not found" && exit 1; }; }

facts() {
    "$bins/l2p-engine" --version
    uname -mr
    nproc
    nvidia-smi || echo 'nvidia-smi fails'
    nvcc --version | tail -2
    "$bins/l2p-engine" devices
    "$bins/l2p-engine" devices | grep -q 'cuda:0' || { echo 'no GPU: the program finds none' && exit 1; }
    "$python3" -c 'import torch, timm; print("PyTorch", torch.__version__, "timm", timm.__version__, "sees a GPU:", torch.cuda.is_available())'
}

gradients() {
    local code=0
    try "$bins/ops" gradients --nocapture
    try "$bins/model"
    exit $code
}

memcheck() {
    have compute-sanitizer
    export L2P_CUBLASLT=none # the vendor's kernels are not what is checked
    compute-sanitizer --tool memcheck --error-exitcode 9 "$bins/bench_kernels" --nocapture
}

racecheck() {
    have compute-sanitizer
    export L2P_CUBLASLT=none
    compute-sanitizer --tool racecheck --error-exitcode 9 "$bins/bench_kernels" --nocapture
}

# The real NCCL with one rank, also in a graph, and two ranks on one GPU as far as it lets them: what it says is in the
# log. What takes more GPUs is skipped and counted.
nccl() {
    local code=0
    "$bins/l2p-engine" devices | grep 'several GPUs: NCCL' || { "$bins/l2p-engine" devices | grep 'several GPUs' && exit 1; }
    "$bins/nccl" --nocapture --test-threads=1 >"$work/nccl.txt" 2>&1 || code=1
    cat "$work/nccl.txt"
    grep 'one GPU' "$work/nccl.txt"
    echo "skipped: $(grep -o 'skipped: 1 test' "$work/nccl.txt" | wc -l) tests"
    exit $code
}

train() {
    local code=0 cpu sizes=()
    [ -z "$tiny" ] || sizes=(--set data.train_per_class=20)
    "$bins/l2p-engine" train --quiet --workdir "$work/cpu" --device cpu "${sizes[@]}" &
    cpu=$!
    try "$bins/l2p-engine" train --quiet --workdir "$work/cuda" --device cuda "${sizes[@]}"
    try wait "$cpu"
    try "$python3" scripts/gpu_report.py --compare "$work/cpu/results.json" "$work/cuda/results.json"
    exit $code
}

# Hopper kernels, which no run takes unasked: their tests, the check that a run makes of them, and whole steps with both
# generations. The rows of both are in `kernels`.
hopper() {
    local code=0
    "$bins/l2p-engine" devices | grep 'cuda:0' | grep -q 'compute capability 9.0' || {
        echo 'not for this GPU: Hopper kernels are for compute capability 9.0'
        exit 0
    }
    try "$bins/device" hopper --nocapture
    try "$bins/l2p-engine" check-device --kernels hopper --again
    [ -z "$tiny" ] || { one hopper_bf16_2 --model micro --batch 1 --steps 1 --precision bf16 --kernels hopper && exit $code; }
    local kernels
    for kernels in portable hopper; do
        one "${kernels}_bf16_128" --batch 128 --steps 50 --precision bf16 --kernels "$kernels"
        one "${kernels}_bf16_16" --batch 16 --steps 50 --precision bf16 --kernels "$kernels"
    done
    exit $code
}

kernels() {
    local size=()
    [ -z "$tiny" ] || size=(--smoke)
    "$bins/kernels" "${size[@]}" --json "$work/json/kernels.json"
}

# one NAME ARGUMENTS...: a whole step of ours; of PyTorch's.
one() {
    local to=$work/json/step_$1.json
    shift
    try "$bins/step" --device cuda --json "$@" >"$to"
}
peer() {
    local to=$work/json/peer_$1.json where=(--device cuda --batch 128)
    [ -z "$tiny" ] || where=(--device cpu --tiny --batch 4 --steps 2)
    shift
    try "$python3" benches/peer/step.py "${where[@]}" --json "$@" >"$to"
}

steps() {
    local code=0
    if [ -n "$tiny" ]; then
        one bf16_2 --model micro --batch 1 --steps 1 --precision bf16 --eval
        exit $code
    fi
    one bf16_128 --batch 128 --precision bf16 --eval
    one f16_128 --batch 128 --precision f16 --eval
    one bf16_16 --batch 16 --precision bf16
    one bf16_16_no_graph --batch 16 --precision bf16 --graph off
    one bf16_128_plain --batch 128 --precision bf16 --plain
    one bf16_128_coda --batch 128 --precision bf16 --coda --ortho-mu 0.1
    one f32_128 --batch 128 --precision f32 --steps 10
    exit $code
}

peers() {
    local code=0
    peer bf16_128 --precision bf16 --eval
    peer fp32_128 --precision fp32 --steps 5
    peer bf16pure_128 --precision bf16-pure
    exit $code
}

compiled() {
    local code=0
    peer bf16_128_compiled --precision bf16 --compile default
    exit $code
}

# The last blocks compute the rows that are read, as here.
limited() {
    local code=0
    peer bf16_128_limited_compiled --precision bf16 --limit-last --compile default
    exit $code
}

attention() {
    local where=(--device cuda)
    [ -z "$tiny" ] || where=(--batch 2 --tokens 17 --heads 2 --width 16 --runs 3 --sets 2 --backends flash math)
    "$python3" benches/peer/attention.py "${where[@]}" --json >"$work/json/attention.json"
}

# Hardware counters of the first launches of some kernels.
profile() {
    have ncu
    export L2P_CUBLASLT=none
    local rows=('P fc1' 'B fc1' 'P attn' 'B attn' 'B norm') row code=0
    for row in "${rows[@]}"; do
        try ncu --clock-control none --section SpeedOfLight --section Occupancy --section WarpStateStats \
            --launch-skip 1 --launch-count 4 --kernel-name-base function --kernel-name 'regex:bf16|f16' \
            "$bins/kernels" --batch 128 --only "$row" --budget-ms 1
    done
    exit $code
}

export -f try have facts gradients memcheck racecheck nccl train hopper kernels one peer steps peers compiled limited attention profile
export bins work python3 tiny

section facts 40

# Correctness. What needs no GPU runs beside what does.
reserve=260
section gradients 120 &
gradients=$!
section golden 120 "$bins/golden" &
golden=$!
section device 90 "$bins/device" kernels_agree --nocapture
section network 90 "$bins/device" --skip kernels_agree --nocapture
section shapes 40 "$bins/bench_kernels" --nocapture
# What devices newer than 9.0 run: PTX that the driver translates, instead of the finished code.
section forced_jit 90 env CUDA_FORCE_PTX_JIT=1 CUDA_CACHE_DISABLE=1 "$bins/device" kernels_agree --nocapture
wait "$gradients" "$golden"
section memcheck 60
section racecheck 60
section nccl 60
section train 90

# Measurements.
reserve=185
section kernels 120
reserve=150
section hopper 75
reserve=90
section steps 75
reserve=10
section peers 60
section attention 40
section compiled 80
section profile 40
section limited 80

report
echo
cat "$out/report.txt"
"$python3" scripts/gpu_report.py --ok "$out/report.json"
