"""The L2P training step in PyTorch + timm, for a fair pair with `cargo bench --bench step`.

The same work: query pass without prompts (no gradient), selection by batch vote, prompted pass,
masked cross-entropy and pull term, backward to prompts, keys and head, clip, Adam. Prompts are put
in front of the class token, which reads them as the official code does (rule set `official`).

    python benches/peer/step.py --batch 16 --threads 2 --json
    python benches/peer/step.py --batch 128 --device cuda --precision bf16 --compile default --json

`--gelu erf` is what timm's ViT has, `--gelu tanh` what the official JAX code has; a pair takes one word for both sides.
`--precision`: `fp32` as the PyTorch ports run it, `tf32`, `bf16` and `f16` under autocast with fused attention,
`bf16-pure` with the frozen backbone's weights in bf16 as well. `--limit-last` computes only the rows that are read of
the last block of either pass, as the engine does. `--eval` also times evaluation. `--tiny` is a small
network, to see whether it runs.
"""
import argparse
import contextlib
import functools
import json
import resource
import time

import timm
import torch
import torch.nn.functional as F

TINY = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}


class L2P(torch.nn.Module):
    def __init__(self, args, classes):
        super().__init__()
        gelu = functools.partial(torch.nn.GELU, approximate="tanh" if args.gelu == "tanh" else "none")
        sizes = TINY if args.tiny else {"img_size": args.image_size} if args.image_size else {}
        self.vit = timm.create_model(args.model, pretrained=False, num_classes=0, act_layer=gelu, **sizes)
        self.vit.requires_grad_(False).eval()
        if args.precision == "bf16-pure":
            self.vit.to(torch.bfloat16)
        width = self.vit.embed_dim
        self.top_k = args.top_k
        self.limit_last = args.limit_last
        self.prompt = torch.nn.Parameter(torch.rand(args.pool, args.length, width) * 0.01)
        self.key = torch.nn.Parameter(torch.rand(args.pool, width) * 0.01)
        self.head = torch.nn.Linear(width, classes)

    def tokens(self, images):
        x = self.vit.patch_embed(images.to(next(self.vit.parameters()).dtype))
        cls = self.vit.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat([cls, x], 1) + self.vit.pos_embed

    def first_rows(self, block, x, n):
        """The first n rows of a block's output."""
        attention, width = block.attn, x.shape[-1]
        y = block.norm1(x)
        weight, bias = attention.qkv.weight, attention.qkv.bias
        q = F.linear(y[:, :n], weight[:width], bias[:width])
        k, v = F.linear(y, weight[width:], bias[width:]).chunk(2, -1)
        heads = lambda t: t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(heads(q), heads(k), heads(v))
        x = x[:, :n] + attention.proj(out.transpose(1, 2).flatten(2))
        return x + block.mlp(block.norm2(x))

    def encode(self, x, rows):
        """The first `rows` rows after all blocks, normalised."""
        if not self.limit_last:
            return self.vit.norm(self.vit.blocks(x))[:, :rows]
        for block in self.vit.blocks[:-1]:
            x = block(x)
        return self.vit.norm(self.first_rows(self.vit.blocks[-1], x, rows))

    @torch.no_grad()
    def query(self, images):
        return self.encode(self.tokens(images), 1)[:, 0].float()

    def select(self, query):
        similarity = F.normalize(query, dim=1) @ F.normalize(self.key, dim=1).T
        chosen = similarity.topk(self.top_k, 1).indices.flatten()
        votes = torch.zeros(len(self.key), device=query.device).scatter_add(0, chosen, torch.ones_like(chosen, dtype=torch.float32))
        return similarity, votes.topk(self.top_k).indices

    def logits(self, images, ids):
        tokens = self.tokens(images)
        prompts = self.prompt[ids].flatten(0, 1).expand(len(images), -1, -1).to(tokens.dtype)
        x = self.encode(torch.cat([prompts, tokens], 1), prompts.shape[1])
        return self.head(x.float().mean(1))

    def forward(self, images):
        similarity, ids = self.select(self.query(images))
        return self.logits(images, ids), similarity[:, ids].sum() / len(images)


def timed(device, n, run):
    """Seconds of each of n runs, sorted."""
    seconds = []
    if device == "cpu":
        for _ in range(n):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    else:
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(n)]
        torch.cuda.synchronize()
        for start, end in marks:
            start.record()
            run()
            end.record()
        torch.cuda.synchronize()
        seconds = [start.elapsed_time(end) / 1e3 for start, end in marks]
    return sorted(seconds)


def summary(seconds, batch):
    median = seconds[len(seconds) // 2]
    return batch / median, {"min": seconds[0], "median": median, "all": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--image-size", type=int, help="pixels on a side, other than the model's")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, help="timed steps (5; on a GPU 30)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pool", type=int, default=10)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16", "bf16-pure", "f16"], default="fp32")
    parser.add_argument("--gelu", choices=["tanh", "erf"], default="erf")
    parser.add_argument("--compile", choices=["default", "reduce-overhead", "max-autotune"])
    parser.add_argument("--limit-last", action="store_true")
    parser.add_argument("--eval", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU: torch.cuda.is_available() is false")
    steps = args.steps or (5 if args.device == "cpu" else 30)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    # The default of the ports: plain f32 products.
    torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    model = L2P(args, 100).to(args.device)
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learns, lr=0.015, fused=args.device == "cuda")
    side = 32 if args.tiny else args.image_size or 224
    images = torch.rand(args.batch, 3, side, side, device=args.device)
    labels = (torch.arange(args.batch) % 10).to(args.device)
    mask = torch.full((100,), float("-inf"), device=args.device)
    mask[:10] = 0
    narrow = {"bf16": torch.bfloat16, "bf16-pure": torch.bfloat16, "f16": torch.float16}.get(args.precision)
    cast = lambda: torch.autocast(args.device, narrow) if narrow else contextlib.nullcontext()
    compile = lambda f: torch.compile(f, mode=args.compile) if args.compile else f
    compiled = compile(model)
    scaler = torch.amp.GradScaler(args.device, enabled=args.precision == "f16" and args.device == "cuda")
    last = [None]

    def step():
        with cast():
            logits, pull = compiled(images)
            loss = F.cross_entropy(logits.float() + mask, labels) - pull
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        scaler.step(optimizer)
        scaler.update()
        last[0] = loss.detach()

    begun = time.perf_counter()
    for _ in range(1 if args.device == "cpu" and not args.compile else 5):
        step()
    if args.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    warm_up = time.perf_counter() - begun
    rate, seconds = summary(timed(args.device, steps, step), args.batch)
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = {
        "engine": "pytorch", "version": torch.__version__, "timm": timm.__version__, "model": args.model,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu", "precision": args.precision,
        "gelu": args.gelu, "compile": args.compile, "limit_last": args.limit_last, "tiny": args.tiny,
        "batch": args.batch, "threads": args.threads, "pool": args.pool, "length": args.length,
        "top_k": args.top_k, "loss": float(last[0]), "warm_up_seconds": warm_up, "images_per_second": rate,
        "seconds_per_step": seconds, "peak_bytes": peak,
    }
    if args.eval:
        with torch.no_grad(), cast():
            to_query, to_logits = compile(model.query), compile(model.logits)
            query = model.query(images)
            prompted = lambda: to_logits(images, model.select(query)[1])
            for run in (lambda: to_query(images), prompted):
                run()
            query_rate, query_seconds = summary(timed(args.device, steps, lambda: to_query(images)), args.batch)
            cached_rate, cached_seconds = summary(timed(args.device, steps, prompted), args.batch)
        report["evaluation"] = {
            "query_images_per_second": query_rate, "query_seconds": query_seconds,
            "cached_queries_images_per_second": cached_rate, "cached_queries_seconds": cached_seconds,
        }
    if args.json:
        print(json.dumps(report))
    else:
        how = " ".join(filter(None, [args.precision, args.compile and "compiled", args.limit_last and "limited"]))
        print(f"pytorch step {args.model} batch {args.batch} on {args.device} ({how}, {args.gelu} GELU)")
        print(f"  {seconds['median']:.5f} s/step (best {seconds['min']:.5f}), {rate:.2f} images/s")
        print(f"  memory: peak {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
