"""Trains the scorer: an open_clip CustomTextCLIP with the packaged text encoder.

The text trunk is frozen. Training changes the image tower, the text projection and the logit scale. The pictures are
composed in the scorer's styles; of those whose captions name no colour of a thing, four tenths are recoloured.
With `--kind second` the styles are those of the second scorer (see `split`).

Losses, by name:

    contrast  contrastive within the batch; a near miss (one attribute wrong) is an extra wrong caption of each picture
    missed    the picture of a caption against a picture of a near miss, as in the ranking of candidates
    names     against the cached embeddings of all names
    classed   a plain classifier over the names on the image embedding; the tower learns shapes sooner with it
    colour    against the eleven backgrounds of the picture's own name
    previews  between previews and their final pictures, if there are races (see `previews`)
    fidelity  between a composed picture and the candidates sampled for its caption, if there are races
    checked   between candidates that show more and fewer of the stated attributes by pixels, if there are races
    twins     between a picture and its twin on another background or in another style that the caption does not state

The classifier is discarded after training. The twins loss keeps unstated attributes from changing the ranking. The
figure is retrieval over the pack's names in a style excluded from training.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import CustomTextCLIP
from torch import nn
from torch.nn import functional

from models.training import runs
from models.training.data import icons, split, texts
from models.training.data.augment import augment, recolour
from models.training.data.captions import DISPLAY, article
from models.training.data.dataset import colourless, read_rows
from models.training.data.palette import BACKGROUND_NAMES
from models.training.data.races import STEPS, Races, agreement, checked, correlations, fidelity
from models.training.data.scenes import SIZE_PX, Scene, Thing, compose
from models.training.trainers.autoencoder import to_tensor
from models.training.trainers.backbones import pretrained, settle

WIDTH = 256
"""Dimension of an embedding."""

RACES = 2
"""Captions with races in each batch."""

MISSES = 8
"""Maximum number of near-miss pictures in each batch."""

TWINS = 16
"""Maximum number of twins in each batch.

A twin has another background or style, if the caption does not state it.
"""

RECOLOURED = 0.4
"""Share of the eligible pictures that are recoloured.

Eligible pictures have no near miss, and a caption that names no colour of a thing.
"""

CHECKED = 6
"""Training evaluates every n-th unseen picture: about two of each thing."""

WEIGHTS = {
    "contrast": 1.0,
    "missed": 1.0,
    "names": 1.0,
    "classed": 1.0,
    "colour": 0.5,
    "previews": 1.0,
    "fidelity": 0.5,
    "checked": 0.5,
    "twins": 0.5,
}

INPUT_PX = {"efficientnet_lite0": 96}
"""Edge of the pictures that a tower sees, if it is not the pack's.

Serving and training enlarge pictures to it.
"""

PACKAGED = f"package:{texts.PACKAGE}/{texts.FOLDER}"


def config(tower: str) -> dict[str, Any]:
    """The open_clip_config.json of the pack."""
    return {
        "model_cfg": {
            "embed_dim": WIDTH,
            "vision_cfg": {
                "timm_model_name": tower,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": INPUT_PX.get(tower, SIZE_PX),
            },
            "text_cfg": {
                "hf_model_name": PACKAGED,
                "hf_tokenizer_name": PACKAGED,
                "hf_model_pretrained": False,
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": "linear",
                "context_length": texts.MAX_TOKENS,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def build(settings: dict[str, Any]) -> CustomTextCLIP:
    """The stock class of a pack's `config`, with random weights.

    The name of the text package becomes its folder. The tower takes pictures of any size, and enlarges them as serving
    does.
    """
    model = CustomTextCLIP(**json.loads(json.dumps(settings["model_cfg"]).replace(PACKAGED, str(texts.folder()))))
    edge = settings["model_cfg"]["vision_cfg"]["image_size"]
    model.visual.register_forward_pre_hook(lambda _, given: enlarged(given[0], edge))
    return model


def enlarged(pictures: torch.Tensor, edge: int) -> torch.Tensor:
    """Pictures (B, 3, S, S) in [-1, 1] at `edge` px, by bicubic interpolation."""
    if pictures.shape[-1] == edge:
        return pictures
    return functional.interpolate(pictures, size=(edge, edge), mode="bicubic", antialias=True).clamp(-1, 1)


def trained_parts(model: CustomTextCLIP) -> nn.ModuleDict:
    """The parts of the scorer that the pack stores."""
    scale = nn.Module()
    scale.logit_scale = model.logit_scale
    return nn.ModuleDict({"visual": model.visual, "proj": model.text.proj, "scale": scale})


def say(name: str) -> str:
    """The text for a name in tables and figures."""
    return DISPLAY.get(name, name)


class Table:
    """Cached mean text states of all names.

    `bare`: float32 (N, 384), the names alone. `on`: float32 (N, 11, 384), the names on each background.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "scenes" / "names.npz"
        self.names = icons.pack_names()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            encoder = texts.TextEncoder()
            asked = [f"{article(say(n))} on a {b} background" for n in self.names for b in BACKGROUND_NAMES]
            on = torch.cat([encoder.pooled(asked[i : i + 256]) for i in range(0, len(asked), 256)])
            np.savez(path, bare=encoder.pooled([say(n) for n in self.names]).cpu().numpy(), on=on.cpu().numpy())
        found = np.load(path)
        device = torch.get_default_device()
        self.bare = torch.from_numpy(found["bare"]).to(device)
        self.on = torch.from_numpy(found["on"]).to(device).view(len(self.names), len(BACKGROUND_NAMES), -1)
        self.place = {n: i for i, n in enumerate(self.names)}


class Pairs:
    """The cached data set of a scorer.

    It holds pictures, text states of captions and near misses, and targets over names and backgrounds.
    """

    def __init__(self, folder: Path, table: Table, kind: split.Scorer) -> None:
        scenes = folder / "scenes"
        rows = read_rows(scenes / f"{kind}.jsonl")
        place = {c: i for i, c in enumerate(json.loads((scenes / f"{kind}.captions.json").read_text("utf-8")))}
        self.pictures = np.load(scenes / f"{kind}.npy", mmap_mode="r")
        pooled = torch.from_numpy(np.load(scenes / f"{kind}.pooled.npy"))
        self.pooled = pooled.to(torch.get_default_device()).float()
        self.caption = torch.tensor([place[r["caption"]] for r in rows])
        self.negative = torch.tensor([place[r["negative"]] if r["negative"] else -1 for r in rows])
        self.things = torch.tensor([[table.place[t["name"]] for t in (r["things"] * 2)[:2]] for r in rows])
        self.background = torch.tensor([BACKGROUND_NAMES.index(r["background"]) for r in rows])
        self.colourless = torch.tensor([colourless(r) for r in rows])


def repainted(open_to: torch.Tensor, missed: list[int]) -> torch.Tensor:
    """Which pictures of a batch to recolour, bool (B,).

    They are a share of `open_to` and none of `missed`.

    Pictures in `missed` are compared with pictures of near misses in original colours. Recolouring would make that
    comparison too easy.
    """
    chosen = open_to & (torch.rand(len(open_to)) < RECOLOURED)
    chosen[missed] = False
    return chosen


class Relatives:
    """Pictures that differ from rows of the data set: near misses and twins.

    `data.dataset` makes them.
    """

    def __init__(self, folder: Path, kind: split.Scorer) -> None:
        found = np.load(folder / "scenes" / f"{kind}.relatives.npz")
        self.tables = {k: np.load(folder / "scenes" / f"{kind}.{k}.npy", mmap_mode="r") for k in found}
        self.places = {k: {int(row): i for i, row in enumerate(found[k])} for k in found}

    def misses(self, rows: list[int]) -> tuple[list[int], torch.Tensor]:
        """Near misses of up to `MISSES` rows.

        Returns the places in `rows` that have one, and its pictures as `to_tensor` returns them.
        """
        return self._of(rows, "misses", MISSES)

    def twins(self, rows: list[int]) -> tuple[list[int], torch.Tensor]:
        """The same for twins, of up to `TWINS` rows."""
        return self._of(rows, "twins", TWINS)

    def _of(self, rows: list[int], kind: str, most: int) -> tuple[list[int], torch.Tensor]:
        held = self.places[kind]
        places = [place for place, row in enumerate(rows) if row in held][:most]
        return places, to_tensor(self.tables[kind][[held[rows[place]] for place in places]])


def unmoved(one: torch.Tensor, other: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Loss on the score difference of pictures that fit their text equally well.

    The arguments are (B, D) and normalised, except the scalar `scale`; the result is a scalar.
    """
    return (scale * ((one - other) * texts).sum(1)).square().sum() / max(len(one), 1)


def naming_loss(logits: torch.Tensor, things: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits (B, N) for the two things (B, 2) of each picture."""
    return -logits.log_softmax(1).gather(1, things).mean()


def picture_loss(
    image: torch.Tensor, captions: torch.Tensor, near: torch.Tensor, has_near: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Contrastive loss in both directions.

    `near` holds an extra wrong caption of each picture. All embeddings are (B, 256) and normalised.
    """
    logits = scale * image @ captions.T
    own = (scale * (image * near).sum(1)).masked_fill(~has_near, -1e4)
    target = torch.arange(len(image))
    to_text = functional.cross_entropy(torch.cat([logits, own[:, None]], 1), target)
    hard = functional.softplus((own - logits.diagonal())[has_near]).mean() if has_near.any() else torch.zeros(())
    return (to_text + functional.cross_entropy(logits.T, target)) / 2 + hard


def batch_loss(
    parts: nn.ModuleDict, data: Pairs, relatives: Relatives, table: Table, rows: torch.Tensor, races: Races | None
) -> dict[str, torch.Tensor]:
    """The losses of one batch, by name."""
    asked = rows.tolist()
    places, misses = relatives.misses(asked)
    twinned, twins = relatives.twins(asked)
    own = to_tensor(data.pictures[rows.cpu().numpy()])
    painted = recolour(own, repainted(data.colourless[rows], places))
    x = torch.cat([augment(torch.cat([painted, misses])), own[twinned], twins])
    raced = races.batch(torch.randperm(races.trained)[:RACES], int(torch.randint(len(STEPS), ()))) if races else None
    pictures = torch.cat([x, *raced.pictures] if raced else [x]).contiguous(memory_format=torch.channels_last)
    features = parts["visual"](pictures)
    counts = [len(rows), len(misses), len(twins), len(twins), len(features) - len(x)]
    image, wrong, plain, twin, others = functional.normalize(features, dim=-1).split(counts)
    losses = picture_losses(parts, data, table, rows, image)
    losses["classed"] = naming_loss(parts["head"](features[: len(rows)]), data.things[rows])
    scale = parts["scale"].logit_scale.exp().clamp(max=100)
    captions = functional.normalize(parts["proj"](data.pooled[data.caption[rows[places]]]), dim=-1)
    losses["twins"] = unmoved(
        plain, twin, functional.normalize(parts["proj"](data.pooled[data.caption[rows[twinned]]]), dim=-1), scale
    )
    confused = functional.softplus(scale * ((wrong - image[places]) * captions).sum(1))
    losses["missed"] = confused.sum() / max(len(places), 1)
    if raced:
        composed, finals, previews = raced.apart(others)
        wanted = functional.normalize(parts["proj"](raced.texts), dim=-1)[:, None].expand_as(finals)
        losses["previews"] = agreement(finals, previews, wanted)
        losses["fidelity"] = fidelity(composed, finals, wanted, scale)
        losses["checked"] = checked(finals, wanted, raced.shown, scale)
    return losses


def picture_losses(
    parts: nn.ModuleDict, data: Pairs, table: Table, rows: torch.Tensor, image: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The losses of composed pictures from normalised embeddings (B, 256)."""
    scale = parts["scale"].logit_scale.exp().clamp(max=100)
    project = parts["proj"]
    captions = functional.normalize(project(data.pooled[data.caption[rows]]), dim=-1)
    near = functional.normalize(project(data.pooled[data.negative[rows].clamp(min=0)]), dim=-1)
    names = functional.normalize(project(table.bare), dim=-1)
    things = data.things[rows]
    on = functional.normalize(project(table.on[things[:, 0]]), dim=-1)
    colour = functional.cross_entropy(scale * (on @ image[:, :, None])[..., 0], data.background[rows])
    return {
        "contrast": picture_loss(image, captions, near, data.negative[rows] >= 0, scale),
        "names": naming_loss(scale * image @ names.T, things),
        "colour": colour,
    }


class Unseen:
    """Every thing of styles excluded from training, alone on every background.

    With `every` = n, only every n-th picture is used.
    """

    def __init__(self, folder: Path, table: Table, styles: tuple[str, ...], every: int = 1) -> None:
        source = icons.load_icons(folder, styles)
        things = [(style, name) for style in styles for name in table.names if (style, name) in source]
        scenes = [Scene((Thing(name),), style, ground) for style, name in things for ground in BACKGROUND_NAMES]
        scenes = scenes[::every]
        self.pictures = to_tensor(np.stack([compose(s, source) for s in scenes]))
        self.target = torch.tensor([table.place[s.things[0].name] for s in scenes])
        self.background = torch.tensor([BACKGROUND_NAMES.index(s.background) for s in scenes])

    def recall(self, image: torch.Tensor, names: torch.Tensor) -> dict[str, float]:
        """Recall at 1 and 5 of normalised (or scored) embeddings over the names."""
        top = (image @ names.T).topk(5, dim=1).indices == self.target[:, None]
        return {"r1": float(top[:, 0].float().mean()), "r5": float(top.any(1).float().mean())}


def check(parts: nn.ModuleDict, table: Table, unseen: Unseen, races: Races | None) -> dict[str, float]:
    """Figures of the scorer.

    They are retrieval over names and background accuracy in the unseen style. If there are races, they also include the
    correlation of previews with final pictures.
    """
    parts.eval()
    with torch.inference_mode():
        image = functional.normalize(torch.cat([parts["visual"](x) for x in unseen.pictures.split(100)]), dim=-1)
        names = functional.normalize(parts["proj"](table.bare), dim=-1)
        on = functional.normalize(parts["proj"](table.on[unseen.target]), dim=-1)
        colour = ((on @ image[:, :, None])[..., 0].argmax(1) == unseen.background).float().mean()
    agreed = correlations(parts, races) if races is not None else {}
    parts.train()
    return {**unseen.recall(image, names), "background": float(colour), **agreed}


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    runs.add_arguments(parser, rate=1.5e-3, batch=128, samples=700_000)
    parser.add_argument("--kind", choices=tuple(split.SCORERS), default="scorer", help="which icon sets to train on")
    parser.add_argument("--tower", default="regnety_002", help="timm name of the image tower")
    parser.add_argument("--pretrained", action="store_true", help="start the tower from the weights of its package")
    args = parser.parse_args()
    if args.bf16:
        parser.error("--bf16: the scorer is not faster in bfloat16")
    runs.prepare(args)
    table = Table(args.runs)
    parts = trained_parts(build(config(args.tower))).to(memory_format=torch.channels_last)
    if args.pretrained:
        parts["visual"].trunk.load_state_dict(pretrained(args.tower))
    parts["head"] = nn.Linear(WIDTH, len(table.names))
    run = runs.Run(args.runs / (args.name or args.kind), args, parts, ema=0.998)
    relatives = Relatives(args.runs, args.kind)
    measured = split.SCORERS[args.kind].measured
    data, unseen = Pairs(args.runs, table, args.kind), Unseen(args.runs, table, measured, CHECKED)
    run.seeded()
    order = runs.batches(len(data.caption), args.batch, args.seed, run.seen)
    path = args.runs / "scenes" / "races.npz"
    races = Races(path) if path.exists() else None
    while not run.over():
        rows = torch.from_numpy(next(order)).to(data.caption.device)
        losses = batch_loss(parts, data, relatives, table, rows, races)
        run.step(sum(WEIGHTS[name] * loss for name, loss in losses.items()), len(rows))
        run.note(**losses)
        if run.updates % 100 == 0:
            run.report(**check(parts, table, unseen, races))
    parts.load_state_dict(run.averaged())
    settle(parts["visual"], data.pictures)
    run.report(**{f"final_{k}": v for k, v in check(parts, table, unseen, races).items()})
    run.finish(modules=parts.state_dict(), tower=args.tower)


if __name__ == "__main__":
    main()
