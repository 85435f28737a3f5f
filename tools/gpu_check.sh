#!/usr/bin/env bash
# The CUDA kernels on a machine with a GPU, in one call of at most nine minutes:
#
#     tools/gpu_check.sh OUT [STAGE...]
#
# Builds, runs every kernel, the benchmarks, the tests on the GPU and compute-sanitizer, each stage under a limit; what
# fails or runs out of time is recorded and the rest goes on. After an illegal access nothing works any more in the
# process that made it, so kernels, tables and files of tests have processes of their own. Needs python3 with torch, numpy and pytest, nvcc, cmake and
# ninja; no network, and nothing is installed. Leaves OUT/gpu_check.md and .json (stages and benchmarks), and
# OUT/log.txt, all that was said. On Hopper MMD is timed again without what only Hopper has: OUT/portable/.
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

# stage NAME SECONDS COMMAND...: runs it, keeps what it says, notes how it ended.
stage() {
  local name=$1 limit=$2 left=$((deadline - SECONDS)) begin=$SECONDS status result
  shift 2
  case $wanted in *" $name "*) ;; *) return 0 ;; esac
  [ "$limit" -le "$left" ] || limit=$left
  printf '\n==== %s ====\n' "$name" >> "$out/log.txt"
  if [ "$limit" -lt 5 ]; then
    result="not run: no time left" status=1
  else
    (cd "$work" && timeout --kill-after=5 "$limit" "$@") > "$work/said" 2>&1
    status=$?
    cat "$work/said" >> "$out/log.txt"
    result=$(grep -v '^[[:space:]]*$' "$work/said" | tail -n 1)
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

# The kernels for every GPU, built for Hopper without the instructions that it alone has (9.0, not 9.0a).
portable() {
  set -e
  [ "$(python3 -c 'import torch; print(*torch.cuda.get_device_capability())')" = "9 0" ] ||
    { echo "this device has the portable kernels only"; exit 77; }
  TORCH_CUDA_ARCH_LIST=9.0 build_into site_portable build_portable
  PYTHONPATH="$work/site_portable" python3 bench/gpu.py "$out/portable" --only MMD
}

# alone SECONDS NAME COMMAND...: in a process of its own; `report` tells at the end who failed. A file of tests of which
# none is meant for this run (5) did not.
alone() {
  local limit=$1 name=$2 status
  shift 2
  timeout --foreground --kill-after=5 "$limit" "$@"  # in the group of the stage, which may be stopped
  status=$?
  tried=$((${tried:-0} + 1))
  [ "$status" -eq 0 ] || [ "$status" -eq 5 ] || bad="${bad:-} $name ($status)"
}

report() {
  [ -z "${bad:-}" ] || { echo "of $tried failed:$bad"; exit 1; }
  echo "all $tried"
}

kernels() {
  local parts part
  parts=$(python3 tools/gpu_sample.py --list) || exit 1
  for part in $parts; do alone 30 "$part" python3 tools/gpu_sample.py "$part"; done
  report
}

# Folders of tests away from the checkout, so that what is imported is what was built.
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
  command -v compute-sanitizer > /dev/null || { echo "compute-sanitizer is not here"; exit 77; }
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
