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
cp "$bins/about" "$work/about" 2>/dev/null

export L2P_REQUIRE_GPU=1
export L2P_GOLDEN_DIR=$PWD/tests/golden
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
    [ -z "$L2P_CUBLASLT" ] && unset L2P_CUBLASLT || export L2P_CUBLASLT
fi

# Clocks, watts and degrees are read, never set.
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader,nounits \
        -lms 250 >"$work/clocks.csv" 2>/dev/null &
    watcher=$!
fi

report() {
    "$python3" scripts/gpu_report.py "$work" "$out/report.json" "$out/report.txt"
    tar -C "$work" -czf "$out/logs.tar.gz" sections json clocks.csv about 2>/dev/null ||
        tar -C "$work" -czf "$out/logs.tar.gz" sections json
}

wanted() {
    [[ -z $only || ,$only, == *,$1,* ]] && [[ ,$skip, != *,$1,* ]]
}

# Seconds kept for what comes after; the measurements lower it.
reserve=230

# section NAME LIMIT COMMAND...: runs it with its output in a log, for at most LIMIT seconds.
section() {
    local name=$1 limit=$2 from=$SECONDS status=ok code=0 left
    shift 2
    wanted "$name" || return 0
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
    printf '%4d s  %-22s %s\n' $((SECONDS - begun)) "$name" "$status"
    report
}

# The same from a line of shell, with one command per line; the first that fails gives the exit code, all run.
script() {
    local name=$1 limit=$2
    section "$name" "$limit" bash -c 'work=$1 bins=$2 python3=$3 code=0
trap "code=1" ERR
eval "$4"
exit $code' "$name" "$work" "$bins" "$python3" "$3"
}

shape='' peer='--device cuda' train='--quiet' profile_rows='P fc1'
if [ -n "$tiny" ]; then
    shape='--smoke' peer='--device cpu --tiny --batch 4 --steps 2' train='--quiet --set train.num_epochs=1' profile_rows='none'
fi
export shape peer train profile_rows

script facts 25 '
echo "program: $("$bins/l2p-engine" --version)"
uname -mr; nproc
nvidia-smi || echo "no GPU: nvidia-smi fails"
nvcc --version | tail -2 || true
"$bins/l2p-engine" devices
"$python3" -c "import torch, timm; print(\"PyTorch\", torch.__version__, \"timm\", timm.__version__, \"sees a GPU:\", torch.cuda.is_available())" || true
"$bins/l2p-engine" devices | grep -q "cuda:0" || { echo "no GPU: the program finds none"; false; }'

# ---- Correctness ----
# What needs no GPU runs beside what does.
(
    script gradients 120 '"$bins/ops" gradients --nocapture; "$bins/model"'
) &
gradients=$!
(
    script golden 120 '"$bins/golden"'
) &
golden=$!
section device 110 "$bins/device" --nocapture
section shapes 40 "$bins/bench_kernels" --nocapture
wait "$gradients" "$golden"
script memcheck 60 'command -v compute-sanitizer || { echo "compute-sanitizer was not found"; exit 1; }
compute-sanitizer --tool memcheck --error-exitcode 9 "$bins/bench_kernels" --nocapture'
script racecheck 60 'command -v compute-sanitizer || { echo "compute-sanitizer was not found"; exit 1; }
compute-sanitizer --tool racecheck --error-exitcode 9 "$bins/bench_kernels" --nocapture'
script train 90 '"$bins/l2p-engine" train --workdir "$work/cpu" --device cpu $train & cpu=$!
"$bins/l2p-engine" train --workdir "$work/cuda" --device cuda $train
wait $cpu
"$python3" scripts/gpu_report.py --compare "$work/cpu/results.json" "$work/cuda/results.json"'

# ---- Measurements ----
reserve=150
section kernels 120 bash -c '"$1/kernels" $shape --json "$2/json/kernels.json"' kernels "$bins" "$work"
reserve=90
if [ -n "$tiny" ]; then
    script step 60 'step() { "$bins/step" --device cuda --json "$@"; }
step --model micro --batch 2 --steps 10 --precision bf16 --eval >"$work/json/step_bf16_2.json"
step --model micro --batch 2 --steps 10 --precision bf16 --graph off >"$work/json/step_bf16_2_no_graph.json"'
else
    script step 75 'step() { "$bins/step" --device cuda --json "$@"; }
step --batch 128 --precision bf16 --eval >"$work/json/step_bf16_128.json"
step --batch 128 --precision f16 --eval >"$work/json/step_f16_128.json"
step --batch 16 --precision bf16 >"$work/json/step_bf16_16.json"
step --batch 16 --precision bf16 --graph off >"$work/json/step_bf16_16_no_graph.json"
step --batch 128 --precision bf16 --plain >"$work/json/step_bf16_128_plain.json"
step --batch 128 --precision f32 --steps 10 >"$work/json/step_f32_128.json"'
fi
reserve=10
script peers 100 'step() { to=$work/json/peer_$1.json; shift; "$python3" benches/peer/step.py --batch 128 $peer --json "$@" >"$to"; }
step bf16_128 --precision bf16 --eval
step bf16_128_compiled --precision bf16 --compile default
step fp32_128 --precision fp32 --steps 5
step bf16_128_limited_compiled --precision bf16 --limit-last --compile default
step bf16pure_128 --precision bf16-pure'
if [ -n "$tiny" ]; then
    script attention 40 '"$python3" benches/peer/attention.py --batch 2 --tokens 17 --heads 2 --width 16 --runs 3 --sets 2 --backends flash math --json >"$work/json/attention.json"'
else
    script attention 40 '"$python3" benches/peer/attention.py --device cuda --json >"$work/json/attention.json"'
fi
script profile 40 'command -v ncu || { echo "ncu was not found"; exit 1; }
ncu --clock-control none --section SpeedOfLight --section Occupancy --section WarpStateStats --launch-count 4 \
    "$bins/kernels" $shape --batch 128 --only "$profile_rows" --budget-ms 1'

report
echo
cat "$out/report.txt"
"$python3" scripts/gpu_report.py --ok "$out/report.json"
