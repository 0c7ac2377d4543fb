#!/usr/bin/env bash
# What only a GPU can tell about the operator, in one run of less than eight minutes.
#
#     benchmarks/on_card.sh [--quick] [--dry-run] [--budget SECONDS] [--steps a,b,...]
#
# From the root of a checkout, on a machine with torch >= 2.11, Triton, nvcc and, for two of the
# steps, ncu and compute-sanitizer. Nothing is downloaded. Steps stand in the order of what they
# decide; one that fails or runs out of time does not stop the next. Writes report.md, report.json
# and log.txt into $OUT (./card-report unless set); copy them to benchmarks/results/ under the
# card's name. The last step trains, which needs the package's dependencies: where there is no
# network, carry their wheels along and put them on PYTHONPATH.
#
# --quick: correctness and the main table, three minutes. --dry-run: on a machine without a GPU,
# small and on the CPU's backends, to see that the script itself works.
set -u
cd "$(dirname "$0")/.." || exit 2
root=$(pwd)
: "${OUT:=$root/card-report}"
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
all=versions,build,compile,correct,verify,times,peers,counters,sanitizer,train
quick=versions,build,compile,correct,times
steps=$all budget=460
export CARD_DEVICE=cuda CARD_SIZE=full
while [ $# -gt 0 ]; do
  case $1 in
    --quick) steps=$quick budget=175 CARD_SIZE=quick ;;
    --dry-run) CARD_DEVICE=cpu CARD_SIZE=dry ;;
    --budget) budget=$2; shift ;;
    --steps) steps=$2; shift ;;
    *) echo "on_card.sh: --quick, --dry-run, --budget SECONDS, --steps $all"; exit 2 ;;
  esac
  shift
done

work=$(mktemp -d)
builder=
trap '[ -z "$builder" ] || kill "$builder" 2> /dev/null; rm -rf "$work"' EXIT
export CARD_WORK=$work TRITON_CACHE_DIR=$work/triton PYTHONUNBUFFERED=1
export PYTHONPATH=$root:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python3}
start=$(date +%s)
: > "$OUT/log.txt"

left() { echo $((budget - $(date +%s) + start)); }
wanted() { case ",$steps," in *",$1,"*) return 0 ;; *) return 1 ;; esac; }
say() { echo "[$(($(date +%s) - start)) s] $*" | tee -a "$OUT/log.txt"; }
ended() { printf '%s\t%s\t%s\n' "$@" >> "$work/steps.tsv"; }  # name, exit status, seconds

step() {  # step NAME MOST-SECONDS COMMAND...
  local name=$1 most=$2 begun status
  shift 2
  wanted "${name%%:*}" || return 0
  if [ "$(left)" -lt 15 ]; then
    say "$name: no time left"
    ended "$name" -1 0
    return 0
  fi
  [ "$most" -le "$(left)" ] || most=$(left)
  say "$name, at most $most s"
  begun=$(date +%s)
  timeout -k 5 "$most" "$@" 2>&1 | tee -a "$OUT/log.txt"
  status=${PIPESTATUS[0]}
  ended "$name" "$status" $(($(date +%s) - begun))
  [ "$status" = 0 ] || say "$name ended with status $status"
}
card() { "$python" -m card.steps "$@"; }
tool() {  # tool NAME: whether a profiler is there; says so where it is not
  command -v "$1" > /dev/null || { say "$1 is not here"; ended "$1" 127 0; return 1; }
}
export -f card
export python root

step versions 60 "$python" -m card.steps versions

if wanted build && [ $CARD_SIZE != dry ]; then
  say "building in the background"
  (
    begun=$(date +%s)
    arch=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
    RKA_FAST_CUDA=1 TORCH_CUDA_ARCH_LIST=$arch MAX_JOBS=12 timeout "$budget" \
      "$python" -m pip install -q --no-build-isolation --no-deps --no-index \
      --target "$work/site" . > "$work/build.log" 2>&1
    ended build $? $(($(date +%s) - begun))
  ) &
  builder=$!
fi

# Triton's kernels are the checkout's and need nothing built.
if [ $CARD_SIZE = dry ]; then
  step compile 60 "$python" -m card.steps compile 0 8
else
  step compile 100 bash -c 'for i in 0 1 2 3 4 5 6 7; do card compile $i 8 & done; wait'
fi
step correct:triton 90 "$python" -m card.steps correct triton

if [ -n "$builder" ]; then
  while kill -0 "$builder" 2> /dev/null && [ "$(left)" -gt 60 ]; do sleep 1; done
  kill -0 "$builder" 2> /dev/null && say "the build has not ended"
  grep -E 'error|warning: .*spill' "$work/build.log" | head -20 | tee -a "$OUT/log.txt"
  [ -d "$work/site/rka_fast" ] && export PYTHONPATH=$work/site:$PYTHONPATH
  cd "$work" || exit 2  # away from the checkout, so that what was built is imported
fi
step correct:others 90 "$python" -m card.steps correct others
step times 120 "$python" -m card.steps times
step peers 110 "$python" -m card.steps peers
step verify 60 "$python" -m card.steps verify

if wanted counters && [ $CARD_SIZE != dry ] && tool ncu; then
  metrics=smsp__inst_executed.sum,l1tex__data_pipe_lsu_wavefronts_mem_shared.sum
  metrics=$metrics,sm__inst_executed_pipe_tensor.sum,dram__bytes.sum,gpu__time_duration.sum
  metrics=$metrics,smsp__inst_issued.avg.per_cycle_active
  for why in no_instruction barrier long_scoreboard short_scoreboard mio_throttle; do
    metrics=$metrics,smsp__average_warps_issue_stalled_${why}_per_issue_active.ratio
  done
  step counters 90 ncu --clock-control none --profile-from-start off -c 64 --csv \
    --print-units base --metrics "$metrics" --log-file "$work/ncu.csv" \
    "$python" -m card.steps once 1056
fi
if wanted sanitizer && [ $CARD_SIZE != dry ] && tool compute-sanitizer; then
  for check in memcheck racecheck; do
    step sanitizer:$check 60 compute-sanitizer --tool $check --kernel-regex kns=_kernel \
      --log-file "$work/$check.log" "$python" -m card.steps once 2
  done
fi
step train 75 "$python" -m card.steps train

if [ -f "$work/build.log" ]; then
  { echo "---- build"; tail -n 200 "$work/build.log"; } >> "$OUT/log.txt"
fi
"$python" -m card.report "$OUT" "$work"
status=$?
say "done: $OUT/report.md"
exit $status
