"""What scripts/gpu_check.sh found, as JSON and as a table.

    gpu_report.py WORK REPORT.json REPORT.txt    sections, logs and measurements of a folder
    gpu_report.py --compare CPU.json CUDA.json   whether two runs' results.json agree
    gpu_report.py --ok REPORT.json               exit code 0 if every section held
"""
import json
import math
import os
import sys
from datetime import datetime
from pathlib import Path

# Images per second that docs/results.md predicts for an H200 at batch 128: the portable kernels, PyTorch's step.
PREDICTED = {
    "step_bf16_128": 3750,
    "step_f16_128": 3750,
    "peer_bf16_128": 2800,
    "peer_bf16pure_128": 3300,
    "peer_bf16_128_compiled": 3770,
    "peer_fp32_128": 400,
}
# Accuracies of one seed on two devices: sums in another order, 1,000 test images.
ACCURACY_APART = 0.02
TAIL = 15


def read(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def written(path, text):
    """Whole or not at all."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.replace(path)


def reason(status, lines):
    """The line that says why a section failed; of one that ran out of time the last."""
    words = ("no GPU", "no NVIDIA driver", "no NCCL", "was not found", "l2p-engine: ", "FAILED", "panicked", "Error", "error")
    found = [i for word in words for i, line in enumerate(lines) if word in line and status == "failed"]
    if not lines:
        return "it said nothing"
    at = found[0] if found else len(lines) - 1
    # The words of a panic are in the line after.
    return " ".join(line.strip() for line in lines[at : at + 1 + ("panicked" in lines[at])])[:300]


def sections(work):
    found = []
    for path in sorted((work / "sections").glob("*.json"), key=lambda p: p.stat().st_mtime):
        section = read(path)
        if section is None:
            continue
        log = path.with_suffix(".log")
        lines = [l for l in log.read_text(errors="replace").splitlines() if l.strip()] if log.exists() else []
        if section["status"] != "ok":
            section["why"] = reason(section["status"], lines)
            section["tail"] = lines[-TAIL:]
        elif section["name"] == "facts":
            section["tail"] = lines
        else:
            section["tail"] = lines[-3:]
        found.append(section)
    return found


CLOCKS = ("sm_mhz", "memory_mhz", "watts", "degrees")


def clocks(work, begun=-math.inf, ended=math.inf):
    """Least, median and greatest of what nvidia-smi read between these seconds since 1970."""
    rows = []
    try:
        for line in (work / "clocks.csv").read_text().splitlines():
            cells = line.split(",")
            try:
                at = datetime.strptime(cells[0].strip(), "%Y/%m/%d %H:%M:%S.%f").timestamp()
                row = [float(cell) for cell in cells[1:]]
            except ValueError:
                continue
            if begun <= at <= ended and len(row) == len(CLOCKS):
                rows.append(row)
    except OSError:
        return None
    if not rows:
        return None
    columns = {name: sorted(row[i] for row in rows) for i, name in enumerate(CLOCKS)}
    return {name: [c[0], c[len(c) // 2], c[-1]] for name, c in columns.items()}


def gather(work):
    measured = {path.stem: read(path) for path in sorted((work / "json").glob("*.json"))}
    try:
        about = dict(line.split("=", 1) for line in (work / "about").read_text().splitlines() if "=" in line)
    except OSError:
        about = {}
    for product in ((measured.get("kernels") or {}).get("peaks") or {}).get("by_data", []):
        product["clocks"] = clocks(work, product["begun"], product["ended"])
    return {"about": about, "sections": sections(work), "clocks": clocks(work), "measured": measured}


def number(value, digits=1):
    return "-" if value is None else f"{value:,.{digits}f}"


def text(report):
    lines = [f"commit {report['about'].get('commit', 'unknown')}", "", "section                seconds  status"]
    for s in report["sections"]:
        lines.append(f"{s['name']:<22} {s['seconds']:>7}  {s['status']}{': ' + s['why'] if 'why' in s else ''}")
    measured = report["measured"]
    steps = {k: v for k, v in measured.items() if k.startswith(("step_", "peer_"))}
    if steps:
        lines += ["", f"{'whole step':<30} {'ms':>9} {'images/s':>10} {'predicted':>10} {'ratio':>6} {'GiB':>6}"]
        for name, v in steps.items():
            if v is None:
                lines.append(f"{name:<30} no result")
                continue
            rate, wanted = v["images_per_second"], PREDICTED.get(name)
            gib = v["peak_bytes"] / 2**30 if v.get("peak_bytes") else None
            lines.append(
                f"{name:<30} {number(v['seconds_per_step']['median'] * 1e3, 2):>9} {number(rate, 0):>10} "
                f"{number(wanted, 0):>10} {number(rate / wanted if wanted else None, 2):>6} {number(gib):>6}"
            )
        for name, v in steps.items():
            if v and "evaluation" in v:
                e = v["evaluation"]
                lines.append(
                    f"{name}: evaluation {number(e['cached_queries_images_per_second'], 0)} images/s with cached queries, "
                    f"{number(e['query_images_per_second'], 0)} in the query pass"
                )
    kernels = measured.get("kernels")
    if kernels:
        lines += ["", kernels_text(kernels)]
    if kernels or steps:
        lines += ["", *hypotheses(measured)]
    attention = measured.get("attention")
    if attention:
        lines += ["", "PyTorch's attention            forward us  backward us"]
        for row in attention["rows"]:
            name = f"{row['backend']} T={row['tokens']} {row['precision']}"
            if "error" in row:
                lines.append(f"{name:<30} {row['error'][:70]}")
            else:
                lines.append(f"{name:<30} {number(row['forward_us']):>10} {number(row['backward_us']):>12}")
    if report["clocks"]:
        lines += ["", "least, median, greatest: " + "; ".join(f"{k} {v[0]:.0f} {v[1]:.0f} {v[2]:.0f}" for k, v in report["clocks"].items())]
    failed = [s["name"] for s in report["sections"] if s["status"] != "ok"]
    lines += ["", f"FAILED: {', '.join(failed)}" if failed else "all sections held"]
    return "\n".join(lines) + "\n"


def kernels_text(kernels):
    gpu, peaks, rows = kernels["gpu"], kernels["peaks"], kernels["rows"]
    products = ", ".join(f"{form} {flops / 1e12:,.0f} TFLOP/s" for form, flops in peaks["flops_per_s"].items())
    copy = f"{peaks['copy_bytes_per_s'] / 1e9:,.0f} GB/s"
    lines = [
        f"{gpu['name']}: copy {copy}; large products: {products or 'no cuBLASLt'}; {len(rows)} rows, {kernels['failures']} wrong",
        f"{'kernel, by time in a step':<46} {'ms':>7} {'us':>8} {'peak %':>6} {'rival':>6} {'predicted':>9} {'ratio':>6}",
    ]
    cost = lambda row: row.get("times_per_step", 0) * row.get("us", 0)
    largest = max((row["batch"] for row in rows), default=0)
    for row in sorted((r for r in rows if "us" in r and r["batch"] == largest and r["form"] == "bf16"), key=cost, reverse=True)[:16]:
        share = row["share_of_peak"]
        mark = "" if row["kernels"] == "portable" else f" {row['kernels']}"
        name = f"{row['stage']} {row['shape']} x{row['times_per_step']}{mark}"
        lines.append(
            f"{name:<46} {cost(row) / 1e3:>7.2f} {row['us']:>8.1f} {number(share and 100 * share, 0):>6} "
            f"{number(row['rival_over_ours'], 2):>6} {number(row['predicted_us']):>9} {number(row['measured_over_predicted'], 2):>6}"
        )
    for step in kernels["steps"]:
        lines.append(
            f"{step['kernels']} kernels of a step, batch {step['batch']} {step['form']}: {step['ms']:.2f} ms, "
            f"predicted {number(step['predicted_ms'], 2)}"
        )
    for row in rows:
        if not row.get("ok"):
            lines.append(f"WRONG: {row['stage']} {row['shape']} {row['form']} {row['kernels']}: {row.get('error', row.get('relative_error'))}")
    return "\n".join(lines)


# What counts as the same speed, and as near the copy rate.
SAME, NEAR = 0.02, 0.85


def hypotheses(measured):
    """One line for each question of the design that a run answers, and for those that need kernels which are not built."""
    kernels = measured.get("kernels") or {}
    lines = ["questions of the design"]
    by_data = {(p["form"], p["data"]): p for p in kernels.get("peaks", {}).get("by_data", [])}
    for (form, data), p in by_data.items():
        c = p.get("clocks")
        at = f" at {c['sm_mhz'][1]:,.0f} MHz and {c['watts'][1]:.0f} W" if c else ""
        lines.append(f"  large product in {form}, {data}: {p['flops_per_s'] / 1e12:,.0f} TFLOP/s{at}")
    rate = lambda data: by_data.get(("bf16", data), {}).get("flops_per_s")
    if rate("random") and rate("zeros"):
        gain = rate("zeros") / rate("random") - 1
        word = "yes" if gain > SAME else "no"
        lines.append(f"H1 power is the limit: {word}, zeros are multiplied {100 * gain:.1f} % faster than random numbers")
    else:
        lines.append("H1 power is the limit: not answered, no cuBLASLt")
    lines.append("H2 two tiles in turns beat one by two warpgroups; H3 multicast; H4 two chains: not answered, these are not built")
    steps = [measured.get(f"step_{form}_128") for form in ("bf16", "f16")]
    if all(steps):
        bf16, f16 = (s["images_per_second"] for s in steps)
        word = "yes" if f16 >= (1 - SAME) * bf16 else "no"
        lines.append(f"H5 f16 costs at most {100 * SAME:.0f} % against bf16: {word}, a step in f16 has {f16 / bf16:.3f} of its images/s")
    else:
        lines.append("H5 f16 against bf16: not answered, no steps of 128 images")
    copy = kernels.get("peaks", {}).get("copy_bytes_per_s")
    rows = [r for r in kernels.get("rows", []) if r.get("op") == "attention" and r.get("us") and r["form"] == "bf16"]
    largest = max((r["batch"] for r in rows), default=0)
    for r in (r for r in rows if copy and r["batch"] == largest):
        share = r["bytes"] / r["us"] * 1e6 / copy
        word = "yes" if share >= NEAR else "no"
        lines.append(f"H6 {r['stage']} {r['shape']} {r['kernels']} is at its byte floor: {word}, {share:.2f} of the copy rate")
    if not rows:
        lines.append("H6 attention is at its byte floor: not answered, no rows of attention")
    return lines


def compare(cpu, cuda):
    a, b = read(Path(cpu)), read(Path(cuda))
    if a is None or b is None:
        sys.exit(f"no results to compare: {cpu if a is None else cuda} is missing or incomplete")
    accuracies = [r["per_image"]["avg_acc"] for r in (a, b)]
    apart = abs(accuracies[0] - accuracies[1]) if None not in accuracies else math.nan
    for name, r in (("cpu", a), ("cuda", b)):
        print(f"{name}: average accuracy {r['per_image']['avg_acc']}, forgetting {r['per_image']['forgetting']}, "
              f"{json.dumps(r['images_per_second'])} images/s, {r['seconds']:.1f} s on {r['device']}")
    if not apart <= ACCURACY_APART:
        sys.exit(f"the average accuracies are {apart:.4f} apart, at most {ACCURACY_APART} is allowed")


def main():
    match sys.argv[1:]:
        case ["--compare", cpu, cuda]:
            compare(cpu, cuda)
        case ["--ok", path]:
            report = read(Path(path)) or {"sections": []}
            held = report["sections"] and all(s["status"] == "ok" for s in report["sections"])
            sys.exit(0 if held else 1)
        case [work, to_json, to_text]:
            report = gather(Path(work))
            written(Path(to_json), json.dumps(report, indent=1) + "\n")
            written(Path(to_text), text(report))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
