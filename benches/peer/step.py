"""The L2P training step in PyTorch + timm, for a fair pair with `cargo bench --bench step`.

The same work: query pass without prompts (no gradient), selection by batch vote, prompted pass,
masked cross-entropy and pull term, backward to prompts, keys and head, clip, Adam. Prompts are put
in front of the class token, which reads them as the official code does (rule set `official`).

    python benches/peer/step.py --batch 16 --threads 2 --json
"""
import argparse
import json
import resource
import time

import timm
import torch
import torch.nn.functional as F


class L2P(torch.nn.Module):
    def __init__(self, name, pool, length, top_k, classes):
        super().__init__()
        self.vit = timm.create_model(name, pretrained=False, num_classes=0)
        self.vit.requires_grad_(False).eval()
        width = self.vit.embed_dim
        self.top_k = top_k
        self.prompt = torch.nn.Parameter(torch.rand(pool, length, width) * 0.01)
        self.key = torch.nn.Parameter(torch.rand(pool, width) * 0.01)
        self.head = torch.nn.Linear(width, classes)

    def tokens(self, images):
        x = self.vit.patch_embed(images)
        cls = self.vit.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat([cls, x], 1) + self.vit.pos_embed

    def forward(self, images):
        with torch.no_grad():
            query = self.vit.norm(self.vit.blocks(self.tokens(images)))[:, 0]
        similarity = F.normalize(query, dim=1) @ F.normalize(self.key, dim=1).T
        votes = torch.bincount(similarity.topk(self.top_k, 1).indices.flatten(), minlength=len(self.key))
        ids = votes.topk(self.top_k).indices
        prompts = self.prompt[ids].flatten(0, 1).expand(len(images), -1, -1)
        x = self.vit.norm(self.vit.blocks(torch.cat([prompts, self.tokens(images)], 1)))
        logits = self.head(x[:, : prompts.shape[1]].mean(1))
        return logits, similarity[:, ids].sum() / len(images)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pool", type=int, default=10)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = L2P(args.model, args.pool, args.length, args.top_k, 100)
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learns, lr=0.015)
    images = torch.rand(args.batch, 3, 224, 224)
    labels = torch.arange(args.batch) % 10
    mask = torch.full((100,), float("-inf"))
    mask[:10] = 0
    seconds = []
    for step in range(args.steps + 1):
        start = time.perf_counter()
        logits, pull = model(images)
        loss = F.cross_entropy(logits + mask, labels) - pull
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        optimizer.step()
        if step > 0:
            seconds.append(time.perf_counter() - start)
    seconds.sort()
    median = seconds[len(seconds) // 2]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = {
        "engine": "pytorch", "version": torch.__version__, "timm": timm.__version__, "model": args.model,
        "batch": args.batch, "threads": args.threads, "pool": args.pool, "length": args.length,
        "top_k": args.top_k, "loss": float(loss.detach()), "images_per_second": args.batch / median,
        "seconds_per_step": {"min": seconds[0], "median": median, "all": seconds}, "peak_bytes": peak,
    }
    if args.json:
        print(json.dumps(report))
    else:
        print(f"pytorch step {args.model} batch {args.batch} threads {args.threads}")
        print(f"  {median:.3f} s/step (best {seconds[0]:.3f}), {args.batch / median:.2f} images/s")
        print(f"  memory: peak {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
