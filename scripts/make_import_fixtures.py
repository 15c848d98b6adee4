#!/usr/bin/env python3
"""Writes tests/fixtures/import/: tiny models as timm and transformers save them, with the features they compute.

Run from the repository root with torch, timm, transformers and safetensors installed:

    python scripts/make_import_fixtures.py

Every weight is random (LayerScale and biases too). `<name>.npz` has `images` [2, S, S, 3] in [0, 1]
(rounded to float32 before the use), `cls` [2, D] after the final norm, computed in float64 from the
weights as they are stored. `models.json` has the sizes of each.
"""

import json
import pathlib
import shutil
import tempfile

import numpy as np
import safetensors.torch
import timm
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTForImageClassification, ViTModel

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
        if name.endswith(("cls_token", "pos_embed", "position_embeddings")):
            value = 0.5 * noise
        elif p.dim() > 1:
            value = 1.5 * noise / fan_in**0.5
        else:
            value = 1.0 + 0.3 * noise if is_gain else 0.3 * noise
        p.data.copy_(value)
    return model.eval()


def feature(model, images, norm, kind):
    """[2, S, S, 3] in [0, 1] to the normed class token, in float64."""
    model = model.double()
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in norm)
    x = ((torch.tensor(images, dtype=torch.float64) - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        if kind == "timm":
            return model.forward_features(x)[:, 0].numpy()
        return model(pixel_values=x).last_hidden_state[:, 0].numpy()


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


def main():
    OUT.mkdir(parents=True, exist_ok=True)
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
    (OUT / "models.json").write_text(json.dumps(MODELS, indent=1) + "\n")
    print(f"torch {torch.__version__}, timm {timm.__version__}, transformers {transformers.__version__}")
    for file in sorted(OUT.iterdir()):
        print(f"{file.stat().st_size:8} {file.name}")


main()
