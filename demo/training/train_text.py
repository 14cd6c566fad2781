"""Stage 3: the text encoder, taught to say what a caption names, and frozen from then on as SD's is.

Trained together with the U-Net it collapses: before the U-Net has learnt to use it, the text is only noise to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import attention_pytorch
from safetensors.torch import save_file

from ..architecture import END_TOKEN, MAX_LENGTH, TEXT_CONFIG, TEXT_WEIGHTS, EmojiClip, EmojiTokenizer
from ..captions import GENDERS, PROFESSIONS, SKIN_TONES, STYLES, Named, random_person
from .common import PROFESSION_INDEX, cosine, initialise, seed_step

CLASSES = {
    "style": len(STYLES) + 1,
    "profession": len(PROFESSIONS) + 1,
    "gender": len(GENDERS) + 1,
    "skin_tone": len(SKIN_TONES) + 1,
    "weapon": 2,
}
LEARNING_RATE = 1e-3


def train(seed: int = 0, steps: int = 600, batch_size: int = 128) -> float:
    """Train, write `text_encoder.safetensors`, and return the share of attributes read correctly on new captions."""
    torch.manual_seed(seed)
    text = EmojiClip(dtype=torch.float32).transformer.requires_grad_(True)
    initialise(text)
    torch.nn.init.normal_(text.text_model.embeddings.token_embedding.weight, std=1.0)
    torch.nn.init.normal_(text.text_model.embeddings.position_embedding.weight, std=0.3)
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(TEXT_CONFIG["hidden_size"], n) for name, n in CLASSES.items()})
    optimizer = torch.optim.AdamW([*text.parameters(), *heads.parameters()], lr=LEARNING_RATE, weight_decay=0.01)
    tokenizer = EmojiTokenizer().tokenizer
    right = 0.0
    for step in range(steps):
        rng = seed_step(seed, step)
        captions, targets = [], {name: [] for name in CLASSES}
        for _ in range(batch_size):
            _, caption, named = random_person(rng)
            captions.append(caption)
            for name, value in _targets(named).items():
                targets[name].append(value)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * cosine(step, steps)
        # The padding after the last word has read all of it; the longest caption leaves five such positions.
        states = encode(text, torch.tensor([tokens(tokenizer, caption) for caption in captions]))[:, -5:]
        loss, right = torch.zeros(()), 0.0
        for name, head in heads.items():
            logits, wanted = head(states), torch.tensor(targets[name])
            loss = loss + F.cross_entropy(logits.flatten(0, 1), wanted.repeat_interleave(states.shape[1]))
            right += (logits.argmax(-1) == wanted[:, None]).float().mean().item() / len(heads)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"text {step + 1}/{steps} loss {loss.item():.4f} right {right:.4f}", flush=True)
    TEXT_WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in text.state_dict().items()}, TEXT_WEIGHTS)
    return right


def _targets(named: Named) -> dict[str, int]:
    """Class indices, 0 where the caption does not say."""
    return {
        "style": 0 if named.style is None else named.style + 1,
        "profession": 0 if named.profession is None else PROFESSION_INDEX[named.profession] + 1,
        "gender": 0 if named.gender is None else named.gender + 1,
        "skin_tone": 0 if named.skin_tone is None else named.skin_tone + 1,
        "weapon": int(named.weapon),
    }


def tokens(tokenizer, text: str) -> tuple[int, ...]:
    """Token ids as `EmojiTokenizer` gives them, padded with the end token."""
    ids = tokenizer(text)["input_ids"]
    return (*ids, *[END_TOKEN] * (MAX_LENGTH - len(ids)))


def encode(text: torch.nn.Module, token_ids: torch.Tensor) -> torch.Tensor:
    """`text(token_ids)[0]`, differentiable: ComfyUI's own forward adds in place what the layer norms need."""
    transformer = text.text_model
    x = transformer.embeddings(token_ids)
    mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max).triu_(1)
    for layer in transformer.encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), mask, attention_pytorch)
        x = x + layer.mlp(layer.layer_norm2(x))
    return transformer.final_layer_norm(x)
