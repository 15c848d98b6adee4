#!/usr/bin/env python3
"""Writes tests/fixtures/import/: tiny models as timm, transformers and torch save them, with what they compute.

Run from the repository root with torch, timm, transformers and safetensors installed:

    python scripts/make_import_fixtures.py

Every weight is random (LayerScale and biases too). `<name>.npz` has `images` [2, S, S, 3] in [0, 1]
(rounded to float32 before the use), `cls` [2, D] after the final norm, computed in float64 from the
weights as they are stored. `<name>_resized.npz` has the same of images of another size, for which timm or
transformers resize the position table. `models.json` has the sizes of each. `positions.npz` has position
tables and what `torch.nn.functional.interpolate` makes of them. `torch_*` are files of `torch.save`.

    python scripts/make_import_fixtures.py [PART ...]    writes only: models registers positions torch
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import safetensors.torch
import timm
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer
from timm.layers import resample_abs_pos_embed
from transformers import (Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel, ViTConfig,
                          ViTForImageClassification, ViTModel)

OUT = pathlib.Path("tests/fixtures/import")
HALF = ([0.5] * 3, [0.5] * 3)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
MODELS = {}


def randomise(model, seed):
    """Weights of a size at which every part of the network shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float32)
        fan_in = p[0].numel() if p.dim() > 1 else 1
        is_gain = p.dim() == 1 and not name.endswith("bias")
        if name.endswith(("cls_token", "pos_embed", "position_embeddings", "reg_token", "register_tokens")):
            value = 0.5 * noise
        elif p.dim() > 1:
            value = 1.5 * noise / fan_in**0.5
        else:
            value = 1.0 + 0.3 * noise if is_gain else 0.3 * noise
        p.data.copy_(value)
    return model.eval()


def feature(model, images, norm, kind, **more):
    """[2, S, S, 3] in [0, 1] to the normed class token, in float64."""
    model = model.double()
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in norm)
    x = ((torch.tensor(images, dtype=torch.float64) - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        if kind == "timm":
            return model.forward_features(x)[:, 0].numpy()
        return model(pixel_values=x, **more).last_hidden_state[:, 0].numpy()


def save(name, model, norm, kind, dtype=torch.float32, **facts):
    size = facts["image_size"]
    images = np.random.default_rng(len(name)).random((2, size, size, 3), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = model.to(dtype)
        if kind == "timm":
            safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
        elif kind == "hf":
            model.save_pretrained(folder)
        else:  # the names in memory, not those of the release format
            safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
        shutil.copy(folder / "model.safetensors", OUT / f"{name}.safetensors")
    backbone = getattr(model, "vit", model)
    np.savez_compressed(OUT / f"{name}.npz", images=images, cls=feature(backbone, images, norm, kind))
    MODELS[name] = facts


def resized(name, model, norm, kind, size, **more):
    """The features of images of `size` pixels, for which the library itself resizes the positions."""
    images = np.random.default_rng(len(name)).random((2, size, size, 3), dtype=np.float32)
    cls = feature(model, images, norm, kind, **more)
    np.savez_compressed(OUT / f"{name}_resized.npz", images=images, cls=cls)


def models():
    base = dict(img_size=12, patch_size=4, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2, num_classes=5)
    facts = dict(image_size=12, patch_size=4, embed_dim=24, heads=2, mlp_dim=48, layers=2)
    save("timm_vit", randomise(VisionTransformer(**base), 1), HALF, "timm", **facts)
    save("timm_dinov2", randomise(VisionTransformer(**base, init_values=1e-5), 2), IMAGENET, "timm", **facts)
    no_bias = VisionTransformer(**(base | dict(embed_dim=64, num_heads=1)), qkv_bias=False)
    save("timm_no_qkv_bias_bf16", randomise(no_bias, 3), HALF, "timm", torch.bfloat16,
         **(facts | dict(embed_dim=64, heads=1, mlp_dim=128)))

    size = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=4, image_size=16, patch_size=4)
    facts = dict(image_size=16, patch_size=4, embed_dim=16, heads=4, mlp_dim=40, layers=3)
    vit = ViTConfig(**size, intermediate_size=40, attn_implementation="eager")
    save("hf_vit", randomise(ViTModel(vit), 4), HALF, "hf", **facts)
    save("hf_vit_classifier_f16", randomise(ViTForImageClassification(vit), 5), HALF, "hf", torch.float16, **facts)
    save("hf_vit_in_memory", randomise(ViTModel(vit), 6), HALF, "memory", **facts)
    dino = Dinov2Config(**(size | dict(image_size=12)), mlp_ratio=2, attn_implementation="eager")
    facts |= dict(mlp_dim=32, image_size=12)
    save("hf_dinov2", randomise(Dinov2Model(dino), 7), IMAGENET, "hf", **facts)
    save("hf_dinov2_in_memory", randomise(Dinov2Model(dino), 8), IMAGENET, "memory", **facts)


def registers():
    """Models with register tokens, and what the libraries compute for images of another size."""
    base = dict(img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=0,
                dynamic_img_size=True)
    facts = dict(image_size=12, patch_size=4, embed_dim=16, heads=2, mlp_dim=32, layers=2)
    # The conventions of timm's vit_*_reg4_dinov2: no positions but those of the patches.
    reg4 = randomise(VisionTransformer(**base, init_values=1e-5, reg_tokens=4, no_embed_class=True), 11)
    save("timm_reg4", reg4, IMAGENET, "timm", **facts, registers=4)
    resized("timm_reg4", reg4, IMAGENET, "timm", 28)
    # Positions of the class token and the registers, too.
    reg3 = randomise(VisionTransformer(**base, reg_tokens=3), 12)
    save("timm_reg3_positions", reg3, HALF, "timm", **facts, registers=3)
    plain = randomise(VisionTransformer(**base), 13)
    save("timm_small", plain, HALF, "timm", **facts)
    resized("timm_small", plain, HALF, "timm", 20)
    size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=12, patch_size=4)
    eager = dict(attn_implementation="eager")
    dino = Dinov2WithRegistersConfig(**size, mlp_ratio=2, num_register_tokens=4, **eager)
    dino = randomise(Dinov2WithRegistersModel(dino), 14)
    save("hf_dinov2_registers", dino, IMAGENET, "hf", **facts, registers=4)
    resized("hf_dinov2_registers", dino, IMAGENET, "hf", 28)
    dino = randomise(Dinov2Model(Dinov2Config(**size, mlp_ratio=2, **eager)), 15)
    save("hf_dinov2_small", dino, IMAGENET, "hf", **facts)
    resized("hf_dinov2_small", dino, IMAGENET, "hf", 28)
    vit = randomise(ViTModel(ViTConfig(**size, intermediate_size=32, **eager)), 16)
    save("hf_vit_small", vit, HALF, "hf", **facts)
    resized("hf_vit_small", vit, HALF, "hf", 8, interpolate_pos_encoding=True)


def positions():
    """Tables [1, 1 + A A, 3] in float32 and their resized forms, computed in float64."""
    arrays = {}
    for a, b in [(4, 7), (7, 4), (14, 7), (3, 1), (1, 3), (37, 16), (5, 6)]:
        table = torch.tensor(np.random.default_rng(a * 100 + b).normal(size=(1, 1 + a * a, 3)).astype(np.float32))
        arrays[f"{a}to{b}/in"] = table.numpy()
        grid = table[:, 1:].double().reshape(1, a, a, 3).permute(0, 3, 1, 2)
        for rule, how in {
            "bicubic": dict(size=(b, b)),
            "bicubic_antialias": dict(size=(b, b), antialias=True),
            # facebookresearch/dinov2, `interpolate_pos_encoding` with `interpolate_offset` 0.1.
            "dinov2": dict(scale_factor=(float(b + 0.1) / a, float(b + 0.1) / a)),
        }.items():
            out = torch.nn.functional.interpolate(grid, mode="bicubic", align_corners=False, **how)
            assert out.shape[-1] == b
            out = torch.cat([table[:, :1].double(), out.permute(0, 2, 3, 1).reshape(1, -1, 3)], 1)
            arrays[f"{a}to{b}/{rule}"] = out.numpy()
        ours = torch.tensor(arrays[f"{a}to{b}/bicubic_antialias"])
        timms = resample_abs_pos_embed(table, [b, b], num_prefix_tokens=1)
        assert (ours - timms).abs().max() < 1e-5
    np.savez_compressed(OUT / "positions.npz", **arrays)


class NotAStateDict:
    """Something that a training program may save beside its weights."""


def torch_files():
    weights = safetensors.torch.load_file(OUT / "timm_small.safetensors")
    model = VisionTransformer(img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=0)
    model.load_state_dict(weights)
    torch.save(model.state_dict(), OUT / "torch_plain.pth")
    # What Lightning saves, with every awkward form of a tensor: parameters, views of one storage, transposes.
    flat = torch.cat([torch.zeros(5)] + [w.flatten() for w in weights.values()])
    nested, at = {}, 5
    for i, (name, weight) in enumerate(weights.items()):
        view = flat[at:at + weight.numel()].reshape(weight.shape)
        at += weight.numel()
        if weight.dim() == 2 and i % 2:
            view = weight.t().contiguous().t()
        nested[f"model.backbone.{name}"] = torch.nn.Parameter(view) if i % 3 == 0 else view
    moments = {i: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)} for i in range(2)}
    torch.save({"epoch": 3, "global_step": 1 << 70, "lr": 0.5, "best": torch.tensor(0.25), "flags": {True, None},
                "state_dict": nested, "optimizer_states": [{"state": moments, "param_groups": [{"betas": (0.9, 0.999)}]}],
                "hyper_parameters": {"name": "tiny", "sizes": [1, 2], "shape": torch.Size([1, 2]), "bytes": b"\x80"}},
               OUT / "torch_nested.pt", pickle_protocol=4)
    kinds = [torch.float16, torch.bfloat16, torch.float64]
    mixed = {f"module.{n}": w.to(kinds[i % 3]) for i, (n, w) in enumerate(weights.items())}
    torch.save({"student": {k: v * 0 for k, v in list(mixed.items())[:2]}, "teacher": mixed, "epoch": 1},
               OUT / "torch_mixed.bin")
    small = {"cls_token": torch.ones(1, 1, 4)}
    torch.save(small, OUT / "torch_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": small, "args": NotAStateDict()}, OUT / "torch_with_an_object.pth")
    torch.save({"model": {"cls_token": torch.ones(1, 1, 1).expand(1, 1, 64)}}, OUT / "torch_expanded.pth")
    torch.save({"model": {"cls_token": torch.ones(4).to_sparse()}}, OUT / "torch_sparse.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), OUT / "torch_script.pt")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    sizes = OUT / "models.json"
    MODELS.update(json.loads(sizes.read_text()) if sizes.exists() else {})
    parts = dict(models=models, registers=registers, positions=positions, torch=torch_files)
    for part in sys.argv[1:] or parts:
        parts[part]()
    sizes.write_text(json.dumps(MODELS, indent=1) + "\n")
    print(f"torch {torch.__version__}, timm {timm.__version__}, transformers {transformers.__version__}")
    for file in sorted(OUT.iterdir()):
        print(f"{file.stat().st_size:8} {file.name}")


main()
