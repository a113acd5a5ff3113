"""Train a CLIP judge small enough for a package: a genuine open_clip folder that reads emoji, digits and their names.

    pictures --> ImageNet network (frozen) --> features --> projection --+
                                                                         +-- one space, in which a picture lies at its texts
       texts --> sentence encoder (frozen) --> features --> projection --+
                                                                |
    many words and phrases --> small text transformer ----------+  learns what the sentence encoder and its projection say

The image network ships with its projection; the sentence encoder is too large to ship and stays behind as the teacher
(LiT, Zhai et al. 2111.07991, then distillation). Whole concepts are held out, and every accuracy that is stated is measured on them
with the folder as it was written.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from difflab.config import Data
from difflab.core.errors import ConfigError
from difflab.core.files import read_tensors, write_json, write_tensors
from difflab.core.hashing import digest
from difflab.core.progress import Reporter
from difflab.core.seeds import generator, numpy_generator, seed_of
from difflab.data.builtin import DIGIT_NAMES
from difflab.data.registry import open_source
from difflab.data.split import split
from difflab.features.registry import open_extractor
from difflab.features.resize import bicubic
from difflab.pretraining import clip_parts as tiny_clip
from difflab.pretraining.clip_parts import ClipPretraining, FitPart

PHRASES = [
    "{} {}",
    "{} {}",
    "{} {} {}",
    "{} with {}",
    "{} and {}",
    "a {}",
    "a picture of {}",
    "a photo of a {}",
    "an emoji of {}",
]
PHRASES += ["{style} {}", "{style} {} {}"]


def pretrain_clip(config: ClipPretraining, out: Path, report: Reporter | None = None) -> Path:
    """Train, measure, and return the open_clip folder `out`/model: float16 weights, tokenizer, training.json.

    Raises ConfigError when the source has no names and styles to learn, or when a wheel is missing, with the command that installs it.
    """
    report, started = report or Reporter(quiet=True), time.time()
    emoji = open_source(config.data, config.seed)
    if not set(tiny_clip.FORMS) - {"caption"} <= set(emoji.attributes):
        raise ConfigError(
            f"data.source={config.data.source} has no concepts, categories and styles to learn; use emoji"
        )
    styles = sorted(set(emoji.attributes["style"]))
    if config.held_out_style is not None and (config.held_out_style not in styles or len(styles) < 2):
        raise ConfigError(
            f"held_out_style={config.held_out_style} must be one of at least two styles; there is {', '.join(styles)}"
        )
    seen, unseen = split(emoji, config.data.held_out, seed_of("split", config.data.drawn_with(config.seed)))
    pictures = tiny_clip.Pictures(
        emoji, open_source(Data(source="digits"), config.seed) if config.digits else None
    )
    teacher = tiny_clip.Teacher(config.text.teacher)
    network = tiny_clip.trunk(config.image)
    known, other = _texts(config, pictures, teacher)
    texts = known + other
    parts = config.model_dump(mode="json", include={"seed", "data", "digits", "image"})
    features = _kept(
        out,
        f"features-{digest(parts)}",
        lambda: _features(network, pictures.images, config.image.size, report),
    )
    vectors = _kept(
        out, f"texts-{digest([texts, config.text.teacher])}", lambda: _read(teacher, texts, report)
    )
    said = dict(zip(texts, vectors, strict=True))
    style = np.array(emoji.attributes["style"])
    folder = out / "model"
    accuracy: dict[str, Any] = {}
    for without in (config.held_out_style, None) if config.held_out_style else (None,):
        chosen = seen if without is None else seen[style[seen] != without]
        image, text, scale = _projections(config, pictures, chosen, features, said, report)
        tower, tokenizer = _distilled(config, teacher, said, len(known), text, report)
        tiny_clip.write(config, folder, network, image, tower, scale, tokenizer)
        judge = open_extractor(f"open_clip:local-dir:{folder}")
        if without:
            accuracy["unseen_style"] = {
                "without": without,
                **tiny_clip.accuracies(judge, pictures, unseen[style[unseen] == without]),
            }
    accuracy["unseen_concepts"] = tiny_clip.accuracies(judge, pictures, unseen)
    if config.digits:
        accuracy["held_out_digits"] = tiny_clip.digit_accuracy(judge, pictures)
    write_json(
        folder / "training.json",
        {
            "config": config.model_dump(mode="json"),
            "accuracy": accuracy,
            "images": {"trained_on": len(seen), "of_unseen_concepts": len(unseen)},
            "unseen_concepts": sorted({emoji.attributes["concept"][i] for i in unseen}),
            "seconds_of_last_sitting": round(time.time() - started),
            "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, cpu",
            "versions": {
                p: version(p) for p in ("difflab", "torch", "open_clip_torch", "timm", "transformers")
            },
        },
    )
    return folder


# ------------------------------------------------------------------------------------------------------------ what is learned
def _texts(
    config: ClipPretraining, pictures: tiny_clip.Pictures, teacher: tiny_clip.Teacher
) -> tuple[list[str], list[str]]:
    """What is said of pictures (of unseen concepts too: their texts, not their pictures); other words and phrases to be understood."""
    known = {text for texts in pictures.sayings.values() for text in texts} | (
        {*tiny_clip.DIGITS, *DIGIT_NAMES} if config.digits else set()
    )
    words = [piece for piece in teacher.pieces if piece.isascii() and piece.isalpha() and len(piece) > 2][
        : config.text.words
    ]
    rng, phrases = numpy_generator("phrases", config.seed), set(words)
    common = sorted({word for text in known for word in text.split()}) * 4 + words
    styles = sorted(set(pictures.sayings["style"]))
    for _ in range(config.text.phrases):
        form = PHRASES[rng.integers(len(PHRASES))]
        drawn = [common[i] for i in rng.integers(len(common), size=form.count("{}"))]
        phrases.add(form.format(*drawn, style=styles[rng.integers(len(styles))]))
    return sorted(known), sorted(phrases - known)


def _kept(out: Path, name: str, make: Callable[[], Tensor]) -> Tensor:
    """What `make` returns; from its file under `out` when an earlier call has made it."""
    if not (out / f"{name}.safetensors").is_file():
        write_tensors(out / f"{name}.safetensors", {"kept": make().contiguous()})
    return read_tensors(out / f"{name}.safetensors")["kept"]


def _read(teacher: tiny_clip.Teacher, texts: list[str], report: Reporter) -> Tensor:
    with report.stage(0, "texts", len(texts), "texts") as advance:
        return teacher(texts, advance)


@torch.no_grad()
def _features(network: Any, images: list[Tensor], size: int, report: Reporter) -> Tensor:
    """What the frozen network sees in every picture, [n, d]."""
    out = []
    with report.stage(0, "features", sum(map(len, images))) as advance:
        for batch in (part for side in images for part in side.split(64)):
            x = bicubic(batch.float(), size) / 127.5 - 1
            out.append(network.forward_head(network.forward_features(x), pre_logits=True).float())
            advance(len(batch))
    return torch.cat(out)


# ------------------------------------------------------------------------------------------------------------ training
def _projections(
    config: ClipPretraining,
    pictures: tiny_clip.Pictures,
    chosen: np.ndarray,
    features: Tensor,
    said: dict[str, Tensor],
    report: Reporter,
) -> tuple[nn.Module, nn.Linear, float]:
    """Projections of both teachers, under which each picture finds its text among all texts of each form; and the log of the scale.

    Of every form but the captions all texts are candidates. The names are told their pictures as well, among those of the batch.
    """
    from timm.layers import Mlp

    fit, rows, draw = config.projections, torch.from_numpy(chosen), generator("projections", config.seed)
    n_emoji = pictures.n_emoji
    mean, std = features[rows].mean(0), features[rows].std(0)
    std = std.clamp(min=float(std.mean()) / 10)
    forms = {
        form: _candidates([pictures.sayings[form][i] for i in range(n_emoji)], chosen, said)
        for form in tiny_clip.FORMS
    }
    digits = (~pictures.digits_held).nonzero()[:, 0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("projections", config.seed))
        image: Any = Mlp(
            features.shape[1], 2 * config.dim, config.dim, drop=(fit.dropout, 0)
        )  # as open_clip's timm_proj "mlp"
        text = nn.Linear(len(next(iter(said.values()))), config.dim)
        scale = nn.Parameter(torch.tensor(3.0))
        optimizer, schedule = _optimizer([*image.parameters(), *text.parameters(), scale], fit)

        def looked_at(at: Tensor) -> Tensor:
            x = F.dropout((features[at] - mean) / std, fit.dropout)
            return scale.exp() * F.normalize(image(x), dim=1)

        with report.stage(0, "projections", fit.steps, "steps") as advance:
            for _ in range(fit.steps):
                at = rows[torch.randint(len(rows), (fit.batch_size,), generator=draw)]
                seen, loss = looked_at(at), torch.zeros(())
                for form, weight in tiny_clip.FORMS.items():
                    vectors, label = forms[form]
                    asked, own = label[at].unique(return_inverse=True)
                    if form == "caption":  # among those of the batch: there are as many as pictures
                        vectors = vectors[asked]
                    logits = seen @ F.normalize(text(F.dropout(vectors, fit.dropout / 3)), dim=1).T
                    loss = loss + weight * F.cross_entropy(logits, own if form == "caption" else label[at])
                    if form == "concept":
                        is_own = F.one_hot(own).float()
                        loss = (
                            loss
                            - weight
                            * ((logits[:, asked].log_softmax(0) * is_own).sum(0) / is_own.sum(0)).mean()
                        )
                if len(digits):
                    at = digits[torch.randint(len(digits), (fit.batch_size // 4,), generator=draw)]
                    logits = (
                        looked_at(n_emoji + at)
                        @ F.normalize(text(torch.stack([said[name] for name in tiny_clip.DIGITS])), dim=1).T
                    )
                    loss = loss + 0.3 * F.cross_entropy(logits, pictures.digits[at])
                _step(loss, optimizer, schedule)
                with torch.no_grad():
                    scale.clamp_(max=4.6)
                advance(1)
        with torch.no_grad():  # the standardisation becomes part of the projection
            image.fc1.weight /= std
            image.fc1.bias -= image.fc1.weight @ mean
    return image.eval(), text, float(scale.detach())


def _candidates(texts: list[str], chosen: np.ndarray, said: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Vectors of the different texts of the chosen pictures, and the position of each picture's text among them; -1 = not chosen."""
    names = sorted({texts[i] for i in chosen})
    at = {name: i for i, name in enumerate(names)}
    return torch.stack([said[name] for name in names]), torch.tensor([at.get(text, -1) for text in texts])


def _distilled(
    config: ClipPretraining,
    teacher: tiny_clip.Teacher,
    said: dict[str, Tensor],
    n_known: int,
    text: nn.Linear,
    report: Reporter,
) -> tuple[Any, Any]:
    """The small text tower and its tokenizer: its embedding of each text points where the projected teacher's does."""
    from open_clip.model import CLIPTextCfg, _build_text_tower

    fit, texts, length = config.distillation, list(said), config.text.length
    tokenizer = tiny_clip.small_tokenizer(teacher, texts, config.text.vocabulary)
    rows = [
        torch.tensor([*encoding.ids[: length - 1], encoding.ids[-1]])
        for encoding in tokenizer.encode_batch(texts)
    ]
    ids, lengths = nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
    with torch.no_grad():
        goal = F.normalize(text(torch.stack(list(said.values()))), dim=1)
    draw = generator("distillation", config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("distillation", config.seed))
        tower: Any = _build_text_tower(
            config.dim, CLIPTextCfg(**tiny_clip.text_config(config.text, tokenizer))
        )
        pieces = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
        tower.token_embedding.weight.data = teacher.embeddings(pieces, config.text.width)
        optimizer, schedule, mask = *_optimizer(list(tower.parameters()), fit), tower.attn_mask
        with report.stage(0, "distillation", fit.steps, "steps") as advance:
            for step in range(fit.steps):
                if (
                    step % 8 == 0
                ):  # half of them said of pictures; texts of a length together, which saves padding
                    pool = torch.cat(
                        [
                            torch.randint(n, (4 * fit.batch_size,), generator=draw)
                            for n in (n_known, len(texts))
                        ]
                    )
                    batches = pool[lengths[pool].argsort(stable=True)].split(fit.batch_size)
                    turns = torch.randperm(8, generator=draw).tolist()
                at = batches[turns[step % 8]]
                longest = int(lengths[at].max())
                tower.attn_mask = mask[:longest, :longest]
                _step(1 - F.cosine_similarity(tower(ids[at, :longest]), goal[at]).mean(), optimizer, schedule)
                advance(1)
    tower.attn_mask = mask
    return tower.eval(), tokenizer


def _optimizer(parameters: list[nn.Parameter], fit: FitPart) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(parameters, lr=fit.learning_rate, weight_decay=fit.weight_decay)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(
        optimizer, fit.learning_rate, total_steps=fit.steps, pct_start=0.1
    )


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()
