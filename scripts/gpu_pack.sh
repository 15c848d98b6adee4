#!/usr/bin/env bash
# Builds and strips what scripts/gpu_check.sh needs on a machine with a GPU and without Rust, and packs it into one
# file: the program, the tests that a GPU matters to, the benchmarks.
#
#   scripts/gpu_pack.sh [FILE]      default: gpu_bins.tar.xz in the current folder
set -euo pipefail
file=$(realpath -m "${1:-gpu_bins.tar.xz}")
cd "$(dirname "$0")/.."

tests=(device model golden ops bench_kernels nccl)
benches=(kernels step)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo "building (release)"
export L2P_REQUIRE_KERNELS=1
{
    nice cargo build --release --message-format=json
    nice cargo test --release --no-run --message-format=json "${tests[@]/#/--test=}"
    nice cargo bench --no-run --message-format=json "${benches[@]/#/--bench=}"
} >"$folder/messages"

# Of each target its kind, its name, and its executable.
python3 - "$folder" "${tests[@]}" "${benches[@]}" <<'PYTHON'
import json, shutil, subprocess, sys

folder, wanted = sys.argv[1], set(sys.argv[2:]) | {"l2p-engine"}
found = {}
for line in open(f"{folder}/messages"):
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("executable"):
        kind, name = message["target"]["kind"][0], message["target"]["name"]
        # `ops` is a test and a benchmark.
        if name in wanted and (kind != "bench" or name in ("kernels", "step")) and (kind != "test" or name != "kernels"):
            found[name] = message["executable"]
missing = wanted - set(found)
if missing:
    sys.exit(f"cargo said nothing of {', '.join(sorted(missing))}")
for name, path in found.items():
    shutil.copy2(path, f"{folder}/{name}")
    subprocess.run(["strip", f"{folder}/{name}"], check=True)
PYTHON
rm "$folder/messages"

commit=$(git rev-parse --short HEAD)
[ -z "$(git status --porcelain --untracked-files=no)" ] || commit="$commit with changes"
printf 'commit=%s\n' "$commit" >"$folder/about"
# A large window finds the kernels that the files have in common.
XZ_OPT='-T1 --lzma2=preset=1,dict=192MiB' tar -C "$folder" -cJf "$file" .
du -h "$folder"/* "$file"
