#!/usr/bin/env bash
# Measures geist beside llama.cpp and ik_llama.cpp on one machine.
#
#   LLAMA_BENCH=.../llama-bench IK_BENCH=.../llama-bench docs/bench/compare.sh OUT MODEL...
#
# OUT is a directory for what is written: raw.csv, one line for each figure with
# the round it came from; geist.jsonl, the whole result of each run of geist;
# log, what the others wrote to standard error; table.md, medians and ratios.
# If raw.csv is there already, its rounds count too.
#
#   LLAMA_BENCH  llama.cpp's llama-bench; unset: left out
#   IK_BENCH     ik_llama.cpp's llama-bench; unset: left out
#   GEIST        the geist binary; unset: built from this checkout
#   THREADS      numbers of threads (1 2)
#   P N R        tokens of the prompt (512), tokens decoded (64), rounds (5)
#   ENGINES      which rows (geist llama llama-huge ik ik-merged)
#
#   llama        as it comes: weights mapped from the file, pages of 4 KiB
#   llama-huge   not mapped, transparent huge pages by way of glibc
#   ik           repacked at load, flash attention, huge pages by way of glibc
#   ik-merged    as ik, with merged Q, K, V and merged up and gate of experts
#
# In each round every engine runs once for each model and number of threads, one
# after the other, so that all see the same weather.
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
fi
out=$1
shift
mkdir -p "$out"
here=$(cd "$(dirname "$0")/../.." && pwd)
read -ra threads <<<"${THREADS:-1 2}"
read -ra engines <<<"${ENGINES:-geist llama llama-huge ik ik-merged}"
p=${P:-512} n=${N:-64} rounds=${R:-5}
huge=GLIBC_TUNABLES=glibc.malloc.hugetlb=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for m in "$@"; do
  [ -r "$m" ] || { echo "compare.sh: cannot read $m" >&2; exit 1; }
done
wanted=()
for e in "${engines[@]}"; do
  case $e in
  geist) ;;
  llama*) [ -n "${LLAMA_BENCH:-}" ] || { echo "without $e: LLAMA_BENCH is not set" >&2; continue; } ;;
  ik*) [ -n "${IK_BENCH:-}" ] || { echo "without $e: IK_BENCH is not set" >&2; continue; } ;;
  *) echo "compare.sh: no engine is called $e" >&2; exit 2 ;;
  esac
  wanted+=("$e")
done
geist=${GEIST:-}
if [ -z "$geist" ]; then
  geist=$scratch/geist
  (cd "$here" && go build -o "$geist" ./cmd/geist)
fi

# number KEY: the first number of that key in the JSON on standard input.
number() { sed -n "s/^.*\"$1\": *\([0-9][0-9.eE+-]*\).*/\1/p" | head -n 1; }

# record ROUND ENGINE MODEL THREADS TEST VALUE
record() {
  [ -n "$6" ] || { echo "compare.sh: $2 gave no $5 for $3; see $out/log" >&2; exit 1; }
  local line
  line=$(printf '%s,%s,%s,%s,%s,%s,%.2f' "$(date -u +%FT%TZ)" "$1" "$2" "$3" "$4" "$5" "$6")
  echo "$line" | tee -a "$out/raw.csv"
}

run_geist() { # ROUND MODEL NAME THREADS
  "$geist" bench "$2" --threads "$4" --prefill "$p" --decode "$n" --rounds 1 --sessions 0 --json \
    >"$scratch/geist.json" 2>>"$out/log"
  tr -d '\n' <"$scratch/geist.json" | tr -s ' ' >>"$out/geist.jsonl"
  echo >>"$out/geist.jsonl"
  record "$1" geist "$3" "$4" prefill "$(number prefill_tok_s <"$scratch/geist.json")"
  record "$1" geist "$3" "$4" decode "$(number decode_tok_s <"$scratch/geist.json")"
}

run_llama() { # ROUND MODEL NAME THREADS ENGINE
  local args=(-m "$2" -p "$p" -n "$n" -t "$4" -r 1 -o json) cmd
  case $5 in
  llama) cmd=("$LLAMA_BENCH" "${args[@]}") ;;
  llama-huge) cmd=(env "$huge" "$LLAMA_BENCH" "${args[@]}" -mmp 0) ;;
  ik) cmd=(env "$huge" "$IK_BENCH" "${args[@]}" -rtr 1 -fa 1) ;;
  ik-merged) cmd=(env "$huge" "$IK_BENCH" "${args[@]}" -rtr 1 -fa 1 -mqkv 1 -muge 1) ;;
  esac
  echo "${cmd[*]}" >>"$out/log"
  "${cmd[@]}" >"$scratch/other.json" 2>>"$out/log" || { echo "compare.sh: failed: ${cmd[*]}; see $out/log" >&2; exit 1; }
  # One object for the prompt and one for the decoding, told apart by n_gen.
  local figures
  figures=$(awk -F'[:,]' '/"n_gen":/ { gen = $2 + 0 } /"avg_ts":/ { print (gen ? "decode" : "prefill"), $2 + 0 }' "$scratch/other.json")
  record "$1" "$5" "$3" "$4" prefill "$(awk '$1 == "prefill" { print $2 }' <<<"$figures")"
  record "$1" "$5" "$3" "$4" decode "$(awk '$1 == "decode" { print $2 }' <<<"$figures")"
}

[ -s "$out/raw.csv" ] || echo "time,round,engine,model,threads,test,tok_s" >"$out/raw.csv"
first=$(awk -F, 'NR > 1 && $2 > m { m = $2 } END { print m + 1 }' "$out/raw.csv")
for ((round = first; round < first + rounds; round++)); do
  for m in "$@"; do
    name=$(basename "$m" .gguf)
    for t in "${threads[@]}"; do
      for e in "${wanted[@]}"; do
        case $e in
        geist) run_geist "$round" "$m" "$name" "$t" ;;
        *) run_llama "$round" "$m" "$name" "$t" "$e" ;;
        esac
      done
    done
  done
done

# Medians of tokens per second, and geist's median divided by the engine's.
awk -F, '
  NR == 1 { next }
  {
    row = $4 "," $5 "," $6
    if (!(row in seen)) { seen[row] = 1; rows[++nrows] = row }
    if (!($3 in known)) { known[$3] = 1; engines[++nengines] = $3 }
    k = row "," $3
    v[k, ++count[k]] = $7 + 0
  }
  function median(k,  i, j, x, c, a) {
    c = count[k]
    for (i = 1; i <= c; i++) a[i] = v[k, i]
    for (i = 2; i <= c; i++) { x = a[i]; for (j = i - 1; j > 0 && a[j] > x; j--) a[j + 1] = a[j]; a[j + 1] = x }
    return (a[int((c + 1) / 2)] + a[int((c + 2) / 2)]) / 2
  }
  END {
    head = "| model | threads | test |"; rule = "|---|---|---|"
    for (e = 1; e <= nengines; e++) {
      head = head " " engines[e] " |"; rule = rule "---|"
      if (engines[e] != "geist") { head = head " geist is |"; rule = rule "---|" }
    }
    print head; print rule
    for (r = 1; r <= nrows; r++) {
      split(rows[r], f, ",")
      line = "| " f[1] " | " f[2] " | " f[3] " |"
      g = count[rows[r] ",geist"] ? median(rows[r] ",geist") : 0
      for (e = 1; e <= nengines; e++) {
        k = rows[r] "," engines[e]
        m = count[k] ? median(k) : 0
        line = line (m ? sprintf(" %.2f |", m) : " |")
        if (engines[e] != "geist") line = line (m && g ? sprintf(" %.2f× |", g / m) : " |")
      }
      print line
    }
  }' "$out/raw.csv" >"$out/table.md"
echo
cat "$out/table.md"
