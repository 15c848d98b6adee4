"""Attention alone through PyTorch's scaled_dot_product_attention, forward and backward, beside the rows of
`cargo bench --bench kernels`: B images, 12 heads of 64, T = 197 (query pass), 222 and 237 (with prompts).

    python benches/peer/attention.py --device cuda --json

q, k and v are the parts of one packed (B, T, 3C) tensor, as both programs have them; the gradients of all three are
computed. Several sets of tensors take their turn, so that none is found in the cache.
"""
import argparse
import json
import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def microseconds(device, runs, sets, run):
    """Median, 10th and 90th percentile of a run, each over all sets."""
    for i in range(len(sets)):
        run(sets[i])
    times = []
    for _ in range(runs):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for tensors in sets:
                run(tensors)
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / len(sets))
        else:
            begun = time.perf_counter()
            for tensors in sets:
                run(tensors)
            times.append((time.perf_counter() - begun) * 1e6 / len(sets))
    times.sort()
    at = lambda share: times[round((len(times) - 1) * share)]
    return statistics.median(times), at(0.1), at(0.9)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tokens", type=int, nargs="+", default=[197, 222, 237])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--precision", nargs="+", choices=["bf16", "f16", "f32"], default=["bf16", "f16"])
    parser.add_argument("--backends", nargs="+", choices=list(BACKENDS), default=["flash", "cudnn", "efficient"])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--sets", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU: torch.cuda.is_available() is false")
    torch.manual_seed(0)
    dtypes = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
    rows = []
    for precision in args.precision:
        for tokens in args.tokens:
            shape = (args.batch, tokens, 3, args.heads, args.width)
            sets = []
            for _ in range(args.sets):
                qkv = torch.randn(shape, device=args.device).to(dtypes[precision])
                up = torch.randn(args.batch, args.heads, tokens, args.width, device=args.device).to(dtypes[precision])
                sets.append((qkv, up))
            flops = 4 * args.batch * args.heads * tokens * tokens * args.width
            for backend in args.backends:
                row = {"tokens": tokens, "batch": args.batch, "precision": precision, "backend": backend}

                def forward(tensors):
                    q, k, v = tensors[0].unbind(2)
                    return scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))

                def both(tensors):
                    qkv = tensors[0].detach().requires_grad_()
                    forward((qkv,)).backward(tensors[1])

                try:
                    with sdpa_kernel(BACKENDS[backend]):
                        with torch.no_grad():
                            ours = microseconds(args.device, args.runs, sets, forward)
                        together = microseconds(args.device, args.runs, sets, both)
                    backward = together[0] - ours[0]
                    row.update({
                        "forward_us": ours[0], "forward_p10_us": ours[1], "forward_p90_us": ours[2],
                        "forward_backward_us": together[0], "backward_us": backward,
                        "forward_tflops": flops / ours[0] / 1e6, "backward_tflops": 2.5 * flops / backward / 1e6,
                    })
                except RuntimeError as error:
                    row["error"] = str(error).splitlines()[0]
                rows.append(row)
                if not args.json:
                    print(row)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    if args.json:
        print(json.dumps({"engine": "pytorch", "version": torch.__version__, "device": name, "rows": rows}))


if __name__ == "__main__":
    main()
