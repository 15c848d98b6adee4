#!/usr/bin/env python3
"""Writes tests/fixtures/adopt: checkpoints of other programs with random weights, and the logits that these programs give.

    python scripts/make_adopt_fixtures.py l2p-pytorch DIR
    python scripts/make_adopt_fixtures.py dualprompt-pytorch DIR
    python scripts/make_adopt_fixtures.py coda-prompt DIR
    python scripts/make_adopt_fixtures.py pilot DIR

DIR is a clone of JH-LEE-KR/l2p-pytorch @ f7bc994, JH-LEE-KR/dualprompt-pytorch @ 7eb457d, GT-RIPL/CODA-Prompt @ 6417d4f or
sun-hailong/LAMDA-PILOT @ 2647455, whose own classes are built here with few blocks, and whose own forward passes give the logits, in f64 and
one image at a time (batches of dualprompt-pytorch mix keys and values, docs/adopt.md). Needs torch and timm.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import timm.layers
import torch

OUT = Path(__file__).resolve().parent.parent / "tests/fixtures/adopt"
SIDE, PATCH, WIDTH, HEADS, CLASSES, TASKS = 28, 14, 20, 2, 10, 5
VIT = dict(img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, num_heads=HEADS, mlp_ratio=2, num_classes=CLASSES)


def randomise(model):
    """Weights of a size at which every part of the network matters."""
    for name, p in model.named_parameters():
        p.data = torch.randn(p.shape) * 0.25 + ("norm" in name and name.endswith("weight"))


def images():
    return np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


def logits_of(forward):
    pixels = torch.tensor(images()).permute(0, 3, 1, 2).double() / 255
    with torch.no_grad():
        return np.concatenate([forward(pixels[i : i + 1]).numpy() for i in range(len(pixels))])


def write(name, saved, logits):
    OUT.mkdir(parents=True, exist_ok=True)
    torch.save(saved, OUT / f"{name}.pth")
    np.savez(OUT / f"{name}.npz", images=images(), logits=logits)
    print(f"{name}: logits from {logits.min():.2f} to {logits.max():.2f}, {(OUT / f'{name}.pth').stat().st_size} bytes")


def original_of(model, original):
    """Both networks have the same pre-trained weights; positions of prompts are those of the class token."""
    state = {k: v for k, v in model.state_dict().items() if k in original.state_dict() and not k.startswith("head")}
    count = original.pos_embed.shape[1]
    rows = torch.randn(1, count, WIDTH) * 0.25
    prompts = model.pos_embed.shape[1] - count
    model.pos_embed.data = torch.cat([rows[:, :1].expand(-1, 1 + prompts, -1), rows[:, 1:]], 1).contiguous()
    original.load_state_dict({**state, "pos_embed": rows}, strict=False)


def arguments():
    """What the programs of JH-LEE-KR save beside the weights."""
    return argparse.Namespace(dataset="Split-CIFAR100", lr=0.03, freeze=["blocks"], distributed=False, gpu=None)


def prompted(module, kwargs):
    torch.manual_seed(2)
    model = module.VisionTransformer(**VIT, depth=5, **kwargs)
    original = module.VisionTransformer(**VIT, depth=5)
    randomise(model)
    randomise(original)
    original_of(model, original)
    return model, original


L2P = dict(
    prompt_length=2, embedding_key="cls", prompt_init="uniform", prompt_pool=True, prompt_key=True, pool_size=6,
    top_k=3, batchwise_prompt=True, prompt_key_init="uniform", head_type="prompt",
)
DUAL = dict(
    prompt_length=2, embedding_key="cls", prompt_init="uniform", prompt_pool=True, prompt_key=True, pool_size=5,
    top_k=1, batchwise_prompt=True, prompt_key_init="uniform", head_type="token", use_prompt_mask=True,
    use_g_prompt=True, g_prompt_length=3, g_prompt_layer_idx=[0, 1], use_prefix_tune_for_g_prompt=True,
    use_e_prompt=True, e_prompt_layer_idx=[2, 3, 4], use_prefix_tune_for_e_prompt=True,
)


def jh_lee_kr(name, kwargs):
    import vision_transformer

    model, original = prompted(vision_transformer, kwargs)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    saved = {"model": state, "optimizer": {"state": {}}, "epoch": 5, "args": arguments()}
    model, original = model.double().eval(), original.double().eval()
    forward = lambda x: model(x, task_id=0, cls_features=original(x)["pre_logits"], train=False)["logits"]
    write(name, saved, logits_of(forward))


def components(prompt_class):
    """Of a model that has learned all tasks but the last: components of that one are there and not read."""
    prompt = prompt_class(WIDTH, TASKS, (10, 4, 0.0), key_dim=WIDTH)
    for _ in range(TASKS - 2):
        prompt.process_task_count()
    return prompt


def coda(name):
    from models.vit import VisionTransformer
    from models.zoo import CodaPrompt, ViTZoo

    torch.manual_seed(2)
    model = ViTZoo.__new__(ViTZoo)
    torch.nn.Module.__init__(model)
    model.prompt_flag, model.task_id = "coda", None
    model.feat = VisionTransformer(**VIT, depth=5)
    model.last = torch.nn.Linear(WIDTH, CLASSES)
    model.prompt = components(CodaPrompt)
    randomise(model)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    write(name, state, logits_of(model.double().eval()))


def pilot(name):
    from backbone import vit_coda_promtpt, vit_dualprompt, vit_l2p
    from backbone.prompt import CodaPrompt
    from utils import inc_net

    for kind, module, kwargs in [("l2p", vit_l2p, L2P), ("dualprompt", vit_dualprompt, DUAL)]:
        net = inc_net.PromptVitNet.__new__(inc_net.PromptVitNet)
        torch.nn.Module.__init__(net)
        net.backbone, net.original_backbone = prompted(module, kwargs)
        state = {k: v.clone() for k, v in net.state_dict().items()}
        net = net.double().eval()
        write(f"{name}_{kind}", {"tasks": TASKS - 1, "model_state_dict": state}, logits_of(lambda x: net(x)["logits"]))
    torch.manual_seed(2)
    net = inc_net.CodaPromptVitNet.__new__(inc_net.CodaPromptVitNet)
    torch.nn.Module.__init__(net)
    net.backbone = vit_coda_promtpt.VisionTransformer(**VIT, depth=5)
    net.fc, net.prompt = torch.nn.Linear(WIDTH, CLASSES), components(CodaPrompt)
    randomise(net)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    write(f"{name}_coda", {"tasks": TASKS - 1, "model_state_dict": state}, logits_of(net.double().eval()))


if __name__ == "__main__":
    port, folder = sys.argv[1:3]
    sys.path.insert(0, folder)
    OUT.mkdir(parents=True, exist_ok=True)
    # The programs want a GPU where a CPU does.
    sys.modules["timm.models.layers.weight_init"] = timm.layers.weight_init
    torch.Tensor.cuda = lambda self, *_, **__: self
    if port == "l2p-pytorch":
        jh_lee_kr("l2p_pytorch", L2P)
    elif port == "dualprompt-pytorch":
        jh_lee_kr("dualprompt_pytorch", DUAL)
    elif port == "coda-prompt":
        coda("coda_prompt")
    elif port == "pilot":
        pilot("pilot")
    else:
        sys.exit(f"wanted l2p-pytorch, dualprompt-pytorch, coda-prompt or pilot, found {port}")
