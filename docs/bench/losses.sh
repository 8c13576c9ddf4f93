#!/usr/bin/env bash
# Draws the losses that "geist train tales --losses" writes as an SVG picture.
# Usage: docs/bench/losses.sh NAME=FILE.csv... > FILE.svg
# Lines are held-out loss; thin lines are means of training loss over 25 steps.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 NAME=FILE.csv..." >&2; exit 2; }
for a in "$@"; do
  awk -F, -v name="${a%%=*}" 'NR > 1 {
    sum += $2; n++
    if (n == 25) { printf "%s\ttrain\t%d\t%.4f\n", name, $1, sum / n; sum = n = 0 }
    if ($3 != "") printf "%s\theld\t%d\t%s\n", name, $1, $3
  }' "${a#*=}"
done | awk -F'\t' '
  {
    if (!($1 in order)) { order[$1] = names; list[names++] = $1 }
    k = $1 "\t" $2
    px[k] = px[k] " " $3; py[k] = py[k] " " $4
    if ($3 > most) most = $3
    if (low == "" || $4 < low) low = $4
  }
  END {
    split("#1f5fa8 #c4572e #3f8f4f #7a4fa3", color, " ")
    w = 720; h = 420; left = 50; right = 20; top = 20; bottom = 45
    lo = int(low * 2) / 2; hi = 7
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", w, h
    printf "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", w, h
    for (y = lo; y <= hi + 1e-9; y += 0.5) {
      v = top + (hi - y) / (hi - lo) * (h - top - bottom)
      printf "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.1f</text>\n", left, v, w - right, left - 6, v + 4, y
    }
    for (i = 0; i <= 4; i++) {
      x = left + i / 4 * (w - left - right)
      printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", x, h - bottom + 18, most * i / 4
    }
    printf "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">steps</text>\n", (left + w - right) / 2, h - 8
    for (j = 0; j < names; j++) {
      for (t = 0; t < 2; t++) {
        k = list[j] "\t" (t ? "held" : "train")
        n = split(px[k], xs, " "); split(py[k], ys, " ")
        d = ""
        for (i = 1; i <= n; i++) {
          y = ys[i] > hi ? hi : ys[i]
          d = d sprintf("%s%.1f %.1f", i == 1 ? "M" : "L", left + xs[i] / most * (w - left - right), top + (hi - y) / (hi - lo) * (h - top - bottom))
        }
        if (n) printf "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"%s\"%s/>\n", d, color[j + 1], t ? "2" : "1", t ? "" : " opacity=\"0.45\""
      }
      printf "<text x=\"%d\" y=\"%d\" fill=\"%s\">%s</text>\n", w - right - 150, top + 20 + 18 * j, color[j + 1], list[j]
    }
    print "</svg>"
  }'
