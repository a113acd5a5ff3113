"""Trains a CLIP model for emoji and digits that is small enough to be part of the package.

    pictures --> ImageNet network (frozen) --> features --> projection --+
                                                                         +--> common space
       texts --> sentence encoder (frozen) --> features --> projection --+
                                                                |
    words and phrases --> small text transformer (distilled) ---+

1. Both projections are trained so that a picture and its texts have similar vectors in the common space (LiT,
   Zhai et al. 2111.07991).
2. The sentence encoder is too large for the package. A small text transformer is therefore distilled from the
   sentence encoder and its projection.

Some concepts are held out with all their pictures. The accuracies in training.json are measured on held-out
pictures with the model as it was written.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
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
from difflab.pretraining import clip_parts
from difflab.pretraining.clip_parts import ClipPretraining, FitPart, Pictures, Teacher

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
    "{style} {}",
    "{style} {} {}",
]
"""Templates of the random phrases that the text transformer is distilled on."""


@dataclass(frozen=True)
class Inputs:
    """Everything that a judge is trained on.

    Attributes:
        network: the frozen image network.
        features: its features of all pictures, [n, d].
        text_vectors: text -> the teacher's vector [d].
        n_known: the first `n_known` texts of `text_vectors` describe pictures; the others are words and
            phrases.
    """

    pictures: Pictures
    teacher: Teacher
    network: Any
    features: Tensor
    text_vectors: dict[str, Tensor]
    n_known: int


def pretrain_clip(config: ClipPretraining, out: Path, report: Reporter | None = None) -> Path:
    """Train a CLIP judge and measure its accuracy.

    Returns the open_clip folder `out`/model, with float16 weights, the tokenizer and training.json.

    Raises ConfigError if the source has no concepts and styles, or if a package is missing.
    """
    report, started = report or Reporter(quiet=True), time.time()
    emoji = open_source(config.data, config.seed)
    _check(config, emoji)
    seen, unseen = split(emoji, config.data.held_out, seed_of("split", config.data.drawn_with(config.seed)))
    inputs = _inputs(config, emoji, out, report)
    style = np.array(emoji.attributes["style"])
    folder = out / "model"
    accuracy: dict[str, Any] = {}
    if config.held_out_style:
        judge = _train(config, folder, inputs, seen[style[seen] != config.held_out_style], report)
        unseen_style = unseen[style[unseen] == config.held_out_style]
        accuracy["unseen_style"] = {
            "without": config.held_out_style,
            **clip_parts.accuracies(judge, inputs.pictures, unseen_style),
        }
    judge = _train(config, folder, inputs, seen, report)
    accuracy["unseen_concepts"] = clip_parts.accuracies(judge, inputs.pictures, unseen)
    if config.digits:
        accuracy["held_out_digits"] = clip_parts.digit_accuracy(judge, inputs.pictures)
    processor = platform.processor() or platform.machine()
    write_json(
        folder / "training.json",
        {
            "config": config.model_dump(mode="json"),
            "accuracy": accuracy,
            "images": {"trained_on": len(seen), "of_unseen_concepts": len(unseen)},
            "unseen_concepts": sorted({emoji.attributes["concept"][i] for i in unseen}),
            "seconds_of_last_sitting": round(time.time() - started),
            "machine": f"{processor}, {torch.get_num_threads()} threads, cpu",
            "versions": {
                p: version(p) for p in ("difflab", "torch", "open_clip_torch", "timm", "transformers")
            },
        },
    )
    return folder


def _check(config: ClipPretraining, emoji: Any) -> None:
    """Raise ConfigError if the source lacks the attributes to learn, or the held-out style does not exist."""
    if not set(clip_parts.FORMS) - {"caption"} <= set(emoji.attributes):
        raise ConfigError(
            f"data.source={config.data.source} has no concepts, categories and styles; use emoji"
        )
    styles = sorted(set(emoji.attributes["style"]))
    if config.held_out_style is not None and (config.held_out_style not in styles or len(styles) < 2):
        raise ConfigError(
            f"held_out_style={config.held_out_style} must be one of at least two styles; the source has: "
            f"{', '.join(styles)}"
        )


# ---------------------------------------------------------------------------------------- training inputs
def _inputs(config: ClipPretraining, emoji: Any, out: Path, report: Reporter) -> Inputs:
    """Open the frozen networks and read features and text vectors, which are cached under `out`."""
    digits = open_source(Data(source="digits"), config.seed) if config.digits else None
    pictures = Pictures(emoji, digits)
    teacher = Teacher(config.text.teacher)
    network = clip_parts.trunk(config.image)
    known, other = _texts(config, pictures, teacher)
    texts = known + other
    recipe = config.model_dump(mode="json", include={"seed", "data", "digits", "image"})
    features = _cached(
        out,
        f"features-{digest(recipe)}",
        lambda: _features(network, pictures.images, config.image.size, report),
    )
    vectors = _cached(
        out, f"texts-{digest([texts, config.text.teacher])}", lambda: _text_vectors(teacher, texts, report)
    )
    text_vectors = dict(zip(texts, vectors, strict=True))
    return Inputs(pictures, teacher, network, features, text_vectors, len(known))


def _texts(config: ClipPretraining, pictures: Pictures, teacher: Teacher) -> tuple[list[str], list[str]]:
    """The texts of all pictures, and the other words and phrases for the distillation, without duplicates.

    They include the texts of held-out concepts. The pictures of held-out concepts are not trained on.
    """
    known = {text for texts in pictures.texts.values() for text in texts}
    if config.digits:
        known |= {*clip_parts.DIGITS, *DIGIT_NAMES}
    words = [piece for piece in teacher.pieces if piece.isascii() and piece.isalpha() and len(piece) > 2]
    words = words[: config.text.words]
    rng, phrases = numpy_generator("phrases", config.seed), set(words)
    common = sorted({word for text in known for word in text.split()}) * 4 + words
    styles = sorted(set(pictures.texts["style"]))
    for _ in range(config.text.phrases):
        template = PHRASES[rng.integers(len(PHRASES))]
        drawn = [common[i] for i in rng.integers(len(common), size=template.count("{}"))]
        phrases.add(template.format(*drawn, style=styles[rng.integers(len(styles))]))
    return sorted(known), sorted(phrases - known)


def _cached(out: Path, name: str, make: Callable[[], Tensor]) -> Tensor:
    """The tensor that `make` returns. It is stored under `out` and read from there in later calls."""
    if not (out / f"{name}.safetensors").is_file():
        write_tensors(out / f"{name}.safetensors", {"kept": make().contiguous()})
    return read_tensors(out / f"{name}.safetensors")["kept"]


def _text_vectors(teacher: Teacher, texts: list[str], report: Reporter) -> Tensor:
    """The teacher's vectors of the texts, [n, d]."""
    with report.stage(0, "texts", len(texts), "texts") as advance:
        return teacher(texts, advance)


@torch.no_grad()
def _features(network: Any, images: list[Tensor], size: int, report: Reporter) -> Tensor:
    """The frozen network's features of all pictures, [n, d]."""
    features = []
    with report.stage(0, "features", sum(map(len, images))) as advance:
        for images_of_source in images:
            for batch in images_of_source.split(64):
                x = bicubic(batch.float(), size) / 127.5 - 1
                hidden = network.forward_features(x)
                features.append(network.forward_head(hidden, pre_logits=True).float())
                advance(len(batch))
    return torch.cat(features)


# ---------------------------------------------------------------------------------------------- training
def _train(config: ClipPretraining, folder: Path, inputs: Inputs, rows: np.ndarray, report: Reporter) -> Any:
    """Train on the emoji `rows`, write the open_clip folder and return it as an opened extractor."""
    projections = _fit_projections(config, inputs, rows, report)
    tower, tokenizer = _distil(config, inputs, projections.text, report)
    image, scale = projections.image.eval(), float(projections.log_scale.detach())
    clip_parts.write(config, folder, inputs.network, image, tower, scale, tokenizer)
    return open_extractor(f"open_clip:local-dir:{folder}")


class Projections:
    """The trained projections of image features and text vectors into the common space.

    Args:
        rows: the emoji to train on, positions int64 [n].
    """

    def __init__(self, config: ClipPretraining, inputs: Inputs, rows: np.ndarray):
        from timm.layers import Mlp

        self.fit, self.inputs, self.rows = config.projections, inputs, torch.from_numpy(rows)
        std = inputs.features[self.rows].std(0)
        self.mean = inputs.features[self.rows].mean(0)
        self.std = std.clamp(min=float(std.mean()) / 10)
        self.candidates = {}
        for form in clip_parts.FORMS:
            texts = inputs.pictures.texts[form][: inputs.pictures.n_emoji]
            self.candidates[form] = _candidates(texts, rows, inputs.text_vectors)
        width = inputs.features.shape[1]
        # The layers must be those of timm_proj "mlp" in open_clip.
        self.image: Any = Mlp(width, 2 * config.dim, config.dim, drop=(self.fit.dropout, 0))
        self.text = nn.Linear(len(next(iter(inputs.text_vectors.values()))), config.dim)
        self.log_scale = nn.Parameter(torch.tensor(3.0))

    def scaled_images(self, positions: Tensor) -> Tensor:
        """Unit vectors of the pictures times the scale of the logits: [n, dim]."""
        x = F.dropout((self.inputs.features[positions] - self.mean) / self.std, self.fit.dropout)
        return self.log_scale.exp() * F.normalize(self.image(x), dim=1)

    def emoji_loss(self, positions: Tensor) -> Tensor:
        """Weighted sum over the forms of text: cross-entropy of each picture's text among all texts.

        Captions compete with those of the batch only, because there are as many as pictures. For the form
        "concept" the cross-entropy of each text's pictures among those of the batch is added.
        """
        images, loss = self.scaled_images(positions), torch.zeros(())
        for form, weight in clip_parts.FORMS.items():
            vectors, labels = self.candidates[form]
            batch_texts, batch_labels = labels[positions].unique(return_inverse=True)
            if form == "caption":
                vectors = vectors[batch_texts]
            logits = images @ F.normalize(self.text(F.dropout(vectors, self.fit.dropout / 3)), dim=1).T
            target = batch_labels if form == "caption" else labels[positions]
            loss = loss + weight * F.cross_entropy(logits, target)
            if form == "concept":
                matches = F.one_hot(batch_labels).float()
                picture_log_p = logits[:, batch_texts].log_softmax(0)
                loss = loss - weight * ((picture_log_p * matches).sum(0) / matches.sum(0)).mean()
        return loss

    def digit_loss(self, digits: Tensor) -> Tensor:
        """Cross-entropy of the digits at positions `digits` among ten texts."""
        images = self.scaled_images(self.inputs.pictures.n_emoji + digits)
        vectors = torch.stack([self.inputs.text_vectors[name] for name in clip_parts.DIGITS])
        logits = images @ F.normalize(self.text(vectors), dim=1).T
        return F.cross_entropy(logits, self.inputs.pictures.digits[digits])

    @torch.no_grad()
    def absorb_standardisation(self) -> None:
        """Make the standardisation of the features part of the image projection."""
        self.image.fc1.weight /= self.std
        self.image.fc1.bias -= self.image.fc1.weight @ self.mean


def _fit_projections(
    config: ClipPretraining, inputs: Inputs, rows: np.ndarray, report: Reporter
) -> Projections:
    """Train the projections on the emoji `rows` and on the digits that are not held out."""
    fit, draw = config.projections, generator("projections", config.seed)
    digits = (~inputs.pictures.digits_held).nonzero()[:, 0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("projections", config.seed))
        model = Projections(config, inputs, rows)
        parameters = [*model.image.parameters(), *model.text.parameters(), model.log_scale]
        optimizer, schedule = _optimizer(parameters, fit)
        with report.stage(0, "projections", fit.steps, "steps") as advance:
            for _ in range(fit.steps):
                picks = torch.randint(len(model.rows), (fit.batch_size,), generator=draw)
                loss = model.emoji_loss(model.rows[picks])
                if len(digits):
                    picks = torch.randint(len(digits), (fit.batch_size // 4,), generator=draw)
                    loss = loss + 0.3 * model.digit_loss(digits[picks])
                _step(loss, optimizer, schedule)
                with torch.no_grad():
                    model.log_scale.clamp_(max=4.6)
                advance(1)
        model.absorb_standardisation()
    return model


def _candidates(texts: list[str], rows: np.ndarray, text_vectors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The distinct texts of the pictures `rows` as vectors [m, d], and each picture's position among them.

    The positions are int64 [n], for all n pictures; -1 = a text that no picture of `rows` has.
    """
    names = sorted({texts[i] for i in rows})
    position = {name: i for i, name in enumerate(names)}
    vectors = torch.stack([text_vectors[name] for name in names])
    return vectors, torch.tensor([position.get(text, -1) for text in texts])


def _distil(
    config: ClipPretraining, inputs: Inputs, text_projection: nn.Linear, report: Reporter
) -> tuple[Any, Any]:
    """Train the small text transformer. Returns it and its tokenizer.

    Its embedding of each text is trained to have the direction of the teacher's projected vector.
    """
    from open_clip.model import CLIPTextCfg, _build_text_tower

    fit, length = config.distillation, config.text.length
    texts = list(inputs.text_vectors)
    tokenizer = clip_parts.small_tokenizer(inputs.teacher, texts, config.text.vocabulary)
    encodings = tokenizer.encode_batch(texts)
    rows = [torch.tensor([*encoding.ids[: length - 1], encoding.ids[-1]]) for encoding in encodings]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    with torch.no_grad():
        goal = F.normalize(text_projection(torch.stack(list(inputs.text_vectors.values()))), dim=1)
    batches = _batches(lengths, inputs.n_known, fit.batch_size, generator("distillation", config.seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("distillation", config.seed))
        text_config = CLIPTextCfg(**clip_parts.text_config(config.text, tokenizer))
        tower: Any = _build_text_tower(config.dim, text_config)
        pieces = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
        tower.token_embedding.weight.data = inputs.teacher.embeddings(pieces, config.text.width)
        optimizer, schedule = _optimizer(list(tower.parameters()), fit)
        mask = tower.attn_mask
        with report.stage(0, "distillation", fit.steps, "steps") as advance:
            for batch in islice(batches, fit.steps):
                longest = int(lengths[batch].max())
                tower.attn_mask = mask[:longest, :longest]
                embeddings = tower(ids[batch, :longest])
                _step(1 - F.cosine_similarity(embeddings, goal[batch]).mean(), optimizer, schedule)
                advance(1)
    tower.attn_mask = mask
    return tower.eval(), tokenizer


def _batches(lengths: Tensor, n_known: int, batch_size: int, draw: torch.Generator) -> Iterator[Tensor]:
    """Endless random batches of texts, int64 [batch_size].

    Half of all draws are texts of pictures (the first `n_known`). Eight batches are drawn at a time and
    sorted by length, so that a batch has little padding.
    """
    while True:
        halves = []
        for n in (n_known, len(lengths)):
            halves.append(torch.randint(n, (4 * batch_size,), generator=draw))
        pool = torch.cat(halves)
        batches = pool[lengths[pool].argsort(stable=True)].split(batch_size)
        for turn in torch.randperm(8, generator=draw).tolist():
            yield batches[turn]


def _optimizer(parameters: list[nn.Parameter], fit: FitPart) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW and its one-cycle learning rate."""
    optimizer = torch.optim.AdamW(parameters, lr=fit.learning_rate, weight_decay=fit.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, fit.learning_rate, total_steps=fit.steps, pct_start=0.1
    )
    return optimizer, schedule


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()
