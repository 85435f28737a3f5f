#!/usr/bin/env bash
# Builds, tests and measures the CUDA kernels on a machine with a GPU, in at most nine minutes:
#
#     tools/gpu_check.sh OUT [STAGE...]
#
# The stages run every kernel, the benchmarks, the tests on the GPU and compute-sanitizer, each with a time limit. A
# failed or timed-out stage is recorded and the next one starts. An illegal access breaks its whole process, so every
# kernel, every benchmark table and every test file runs in its own process. On Hopper, MMD is also timed without the
# Hopper-only kernels. The script needs python3 with torch, numpy and pytest, and nvcc, cmake and ninja. It needs no
# network and installs nothing. It writes
#
#     OUT/gpu_check.md and .json   the result of every stage, and the benchmark tables
#     OUT/log.txt                  the full output
#     OUT/portable/                MMD without the Hopper-only kernels
set -uo pipefail

[ $# -ge 1 ] || { sed -n '4p' "$0" | sed 's/^# *//'; exit 2; }
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
wanted=" ${*:-machine build load kernels tests bench memcheck racecheck initcheck synccheck ops portable} "
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
deadline=$((SECONDS + 530))
: > "$out/log.txt"
: > "$work/stages"
failed=0

# stage NAME SECONDS COMMAND...: runs the command and saves its output and exit status.
stage() {
  local name=$1 limit=$2 left=$((deadline - SECONDS)) begin=$SECONDS status result
  shift 2
  case $wanted in *" $name "*) ;; *) return 0 ;; esac
  [ "$limit" -le "$left" ] || limit=$left
  printf '\n==== %s ====\n' "$name" >> "$out/log.txt"
  if [ "$limit" -lt 5 ]; then
    result="not run: no time left" status=1
  else
    (cd "$work" && timeout --kill-after=5 "$limit" "$@") > "$work/output" 2>&1
    status=$?
    cat "$work/output" >> "$out/log.txt"
    result=$(grep -v '^[[:space:]]*$' "$work/output" | tail -n 1)
    case $status in
      0) result="ok: $result" ;;
      77) result="not run: $result" ;;
      124 | 137) result="stopped after $limit s: $result" ;;
      *) result="failed ($status): $result" ;;
    esac
  fi
  [ "$status" -eq 0 ] || [ "$status" -eq 77 ] || failed=1
  result=$(printf %s "$result" | tr -d '\t' | cut -c 1-300)
  printf '%s\t%s\t%s\n' "$name" "$((SECONDS - begin))" "$result" >> "$work/stages"
  printf '%-10s %4s s  %s\n' "$name" "$((SECONDS - begin))" "$result"
}

machine() {
  nvidia-smi || true
  nvcc --version
  cmake --version | head -n 1
  python3 -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
}

# build_into SITE BUILD
build_into() {
  mkdir -p "$1" "$2"
  cp -r "$root/awpf_ext" "$1/"
  rm -f "$1"/awpf_ext/*.so
  cmake -S "$root" -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=Release -DAWPF_CUDA=1 \
    -DPython_EXECUTABLE="$(command -v python3)" -DCMAKE_INSTALL_PREFIX="$work/$1/awpf_ext"
  ninja -C "$2"
  ninja -C "$2" install
}

build() {
  set -e
  build_into site build
  cp -r "$root/bench" "$root/tools" .
  mkdir -p python_tests
  cp -r "$root/python_tests/ops" "$root/python_tests/cuda" python_tests/
}

load() {
  python3 -c 'import awpf_ext, json; print(json.dumps(awpf_ext.build_info()))
assert awpf_ext.build_info()["cuda_kernels"].startswith("ready")'
}

# MMD on Hopper with the kernels for every GPU: built for 9.0, which lacks the Hopper-only instructions of 9.0a.
portable() {
  set -e
  [ "$(python3 -c 'import torch; print(*torch.cuda.get_device_capability())')" = "9 0" ] ||
    { echo "only Hopper has other kernels"; exit 77; }
  TORCH_CUDA_ARCH_LIST=9.0 build_into site_portable build_portable
  PYTHONPATH="$work/site_portable" python3 bench/gpu.py "$out/portable" --only MMD
}

# alone SECONDS NAME COMMAND...: runs the command in its own process, with a time limit. `report` lists the failures.
# Exit status 5 (no test selected) is not a failure.
alone() {
  local limit=$1 name=$2 status
  shift 2
  timeout --foreground --kill-after=5 "$limit" "$@"  # so that a timeout of the stage stops it too
  status=$?
  tried=$((${tried:-0} + 1))
  [ "$status" -eq 0 ] || [ "$status" -eq 5 ] || bad="${bad:-} $name ($status)"
}

report() {
  [ -z "${bad:-}" ] || { echo "failed:$bad (of $tried)"; exit 1; }
  echo "none of $tried failed"
}

kernels() {
  local parts part
  parts=$(python3 tools/gpu_sample.py --list) || exit 1
  for part in $parts; do alone 30 "$part" python3 tools/gpu_sample.py "$part"; done
  report
}

# Test folders are copied away from the checkout, so that tests import the package built here.
run_tests() {
  local folder=$1 file
  shift
  for file in "$folder"/test_*.py; do
    case $file in */test_emulator.py) continue ;; esac
    alone 75 "$(basename "$file" .py)" \
      python3 -m pytest -q -p no:cacheprovider --rootdir "$work" --import-mode=importlib "$file" "$@"
  done
  report
}

bench() {
  local kernel
  for kernel in MMD "MMD gradient" "MMD test" Scatter "Low-rank sums"; do
    alone 100 "$kernel" python3 bench/gpu.py "$work/tables/${kernel// /_}" --only "$kernel"
  done
  report
}

sanitize() {
  command -v compute-sanitizer > /dev/null || { echo "compute-sanitizer was not found"; exit 77; }
  compute-sanitizer --tool "$1" --error-exitcode 9 python3 tools/gpu_sample.py
}

export PYTHONPATH="$work/site"
export root work out
export -f machine build_into build load portable alone report kernels run_tests bench sanitize

stage machine 30 bash -c machine
stage build 200 bash -c build
stage load 60 bash -c load
stage kernels 120 bash -c kernels
stage bench 220 bash -c bench
stage tests 150 bash -c 'run_tests python_tests/cuda'
for tool in memcheck racecheck initcheck synccheck; do stage $tool 45 bash -c "sanitize $tool"; done
stage ops 120 bash -c 'run_tests python_tests/ops --device cuda'
stage portable 120 bash -c portable

python3 - "$work/stages" "$out" "$work/tables" << 'END'
import json, pathlib, sys

stages = [line.split("\t") for line in pathlib.Path(sys.argv[1]).read_text().splitlines()]
out = pathlib.Path(sys.argv[2])
lines = ["| stage | seconds | result |", "|---|---:|---|"]
lines += [f"| {name} | {seconds} | {result.replace('|', '/')} |" for name, seconds, result in stages]
folders = sorted(pathlib.Path(sys.argv[3]).glob("*"), key=lambda folder: folder.stat().st_mtime)
measured = None
for folder in folders:
    if not (folder / "gpu.json").exists():
        continue
    head, found, tables = (folder / "gpu.md").read_text().partition("## ")
    data = json.loads((folder / "gpu.json").read_text())
    lines += [found + tables if measured else "\n" + head + found + tables]
    if measured:
        measured["kernels"].update(data["kernels"])
    else:
        measured = data
(out / "gpu_check.md").write_text("\n".join(lines) + "\n")
found = [{"stage": n, "seconds": int(s), "result": r} for n, s, r in stages]
(out / "gpu_check.json").write_text(json.dumps({"stages": found, "bench": measured}, indent=1) + "\n")
END
exit $failed
