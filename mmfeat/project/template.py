"""The mmfeat.toml that `mmfeat init` writes."""

from __future__ import annotations

import itertools
from pathlib import Path

from mmfeat.common.text import toml_value
from mmfeat.config.encoder_tables import is_path
from mmfeat.config.presets import Preset
from mmfeat.config.schema import HEAD, HEAD_ALONE, Config, SplitConfig
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.tables.readers import Source

TEMPLATE = """\
{about}# Paths are relative to this file. A line left out has its default. To see all settings: mmfeat status --config
schema = 1
metric = {metric:<25} # selects epochs, rounds and runs: samples-f1, micro-f1, macro-f1, map, loss
seed   = {seed}
device = "auto"                    # auto, cpu, cuda, cuda:1
engine = "auto"                    # executes encoders: auto (the fastest here), torch, compile, onnxruntime, openvino
limit_mb = 100.0                   # of a whole model: runs and export say by how much it is met; 0: no limit
heads_dtype = {heads_dtype:<20} # of heads in exported models: float32, float16

[data]
source    = {source}
images    = {images}
id        = {id:<22} # columns of the source
image     = {image}
caption   = {caption:<22} # several are joined: ["title", "description"]
labels    = {labels:<22} # a column of names; of 0/1/blank: ["beach", "dog"]; of COCO: categories
separator = {separator:<22} # between the labels of one cell
absent    = {absent:<22} # unlisted labels are: negative; unknown (requires explicit negatives, as in 0/1/blank columns)
{classes:<34} # the class list: its column label
{group:<34} # rows of one group get the same split

[split]                            # {shares}
val  = {val}                         # selects epochs, rounds and the best run
test = {test}                         # read only by: mmfeat evaluate --split test
{split}

# A change under [encoder.NAME] encodes the rows of that encoder again, and no others.
# Add an encoder by a further table, with modality = "image" or "text"; embeddings of other programs: mmfeat store import.
{encoders}[store]
path  = "features"                 # may be shared by several projects
dtype = "float16"                  # float16, float32

[finetune]
recipe = {recipe:<25} # best: by our benchmarks; paper: the settings of the paper
{synonyms}{finetune:<34} # overrides the recipe: epochs, lr, batch_size, optimizer, loss ...; a table for each encoder

[fuse]
head   = "{head}"               # mmfeat fuse --help lists them
inputs = {inputs}         # encoders
seeds  = {seeds}
{head_table}

[selftrain]
rounds = 5
policy = {policy:<25} # pseudo-labels: soft, class-aware, confident, all; paper: the paper's procedure
{selftrain}
[predict]
threshold = {threshold:<22} # auto: fitted on val if better than 0.5; a number (left out: 0.5); tuned; tuned-per-class
empty     = {empty:<22} # labels of a row without a class above the threshold: most-probable, none
"""

NEW_THRESHOLD = '"auto"'  # of new projects; without the line it is 0.5, as in version 0.1
NEW_SYNONYMS = "mmfeat"  # of new projects, and without the line: the list of version 0.1
ABOUT_HEAD = "# settings of this head: lr, dropout, epochs ..."
SHARES = "shares of the labelled rows; rows keep their split"
OWN_SHARES = "shares, used only if the column or the files below name no such row"
OWN_SPLIT = """\
#column    = "split"               # a split of your own: train, val, test, unlabelled, or numbers of folds
#val_ids   = "val.txt"             # or files of ids: train_ids, val_ids, test_ids"""

ENCODERS = {
    "image": """\
[encoder.image]
model      = {model:<22} # any timm name
pretrained = {pretrained:<22} # auto: the model's own; random; a .safetensors or .pth file
checkpoint = "latest"              # latest from finetune, if any; none; checkpoints/image-1
size       = "auto"                # pixels; auto: as pretrained
precision  = "mixed"               # mixed: any of bfloat16, float16 and TF32, as is fastest here; float32
flip       = false                 # mean over the image and its mirror image
reduced_decoding = true            # JPEGs much larger than size are decoded at 1/2, 1/4 or 1/8 of theirs, which is faster
tokens     = 0                     # 3: keep a 3 x 3 grid of spatial tokens with the pooled embedding

""",
    "text": """\
[encoder.text]
model      = {model}   # any transformers name, or a folder (./, ~ or /)
pretrained = {pretrained}
checkpoint = "latest"              # latest from finetune, if any; none; checkpoints/text-1
max_length = 64
pooling    = "auto"                # auto: as in the model's configuration; cls, mean, max
precision  = "mixed"
tokens     = 0                     # 32: keep the states of the first 32 tokens

""",
    "tfidf": """\
[encoder.text]
model      = {model}               # counts of the captions' words; needs: mmfeat finetune text
width      = 1024                  # terms at most
ngrams     = 1                     # words of a term at most

""",
}


def filled_template(
    folder: Path, config: Config, data: Source, sources: ImageSources, preset: Preset | None = None
) -> str:
    """The text of a new mmfeat.toml; `preset` is the one that its settings are from, if any."""
    images = [shortened(str(path), folder) for path in config.data.images] or _patterns(sources.containers, folder)
    modalities = ["image"] * bool(sources.containers) + ["text"] * bool(data.columns["caption"])
    head = HEAD if len(modalities) > 1 else HEAD_ALONE
    return TEMPLATE.format(
        about="".join(f"# {line}\n" for line in preset.about) if preset else "",
        seed=config.seed,
        metric=toml_value(config.metric),
        heads_dtype=toml_value(config.heads_dtype),
        recipe=toml_value(config.finetune.recipe),
        seeds=config.fuse.seeds,
        policy=toml_value(config.selftrain.policy),
        selftrain="".join(f"{line}\n" for line in preset.lines(config, "selftrain")[1:]) if preset else "",
        threshold=toml_value(config.predict.threshold) if preset else NEW_THRESHOLD,
        source=toml_value(shortened(config.data.source, folder)),
        images=toml_value(images[0] if len(images) == 1 else images),
        **{role: toml_value(data.settings[role]) for role in ("id", "image", "caption", "labels")},
        group=f"group     = {toml_value(config.data.group)}" if config.data.group else '#group    = "product_id"',
        absent=toml_value(config.data.absent),
        separator=toml_value(config.data.separator),
        classes=f"classes   = {toml_value(shortened(config.data.classes, folder))}"
        if config.data.classes
        else '#classes  = "classes.csv"',
        val=config.split.val,
        test=config.split.test,
        shares=OWN_SHARES if config.split.is_given else SHARES,
        split=_own_split(config.split, data, folder) or OWN_SPLIT,
        encoders="".join(_encoder_table(modality, config, folder) for modality in modalities),
        synonyms=_synonyms(config, modalities),
        finetune=f"#[finetune.{modalities[0]}]",
        inputs=toml_value(modalities),
        head=head,
        head_table=f"\n{preset.head_tables(config)}" if preset else f"{f'#[fuse.{head}]':<34} {ABOUT_HEAD}",
        empty=toml_value(config.predict.empty),
    )


def _synonyms(config: Config, modalities: list[str]) -> str:
    """The line of the list of synonyms, if an encoder of captions can be fine-tuned."""
    if not any("finetune.synonyms" in config.encoder[modality].augmentation_keys for modality in modalities):
        return ""
    return f"synonyms = {toml_value(config.finetune.synonyms or NEW_SYNONYMS):<23} # for captions: wordnet, mmfeat, or a file\n"


def _own_split(split: SplitConfig, data: Source, folder: Path) -> str:
    """The lines of a split that the data bring; empty without one."""
    lines = [f"{name}_ids = {toml_value(shortened(file, folder))}" for name, file in split.files.items()]
    if split.column:
        lines.append(f"column    = {toml_value(split.column)}")
    if any(map(str.isdecimal, data.splits)):
        lines += [f"val_fold  = {split.val_fold:<22} # the fold that is val; -1: none"]
        lines += [f"test_fold = {split.test_fold}"]
    return "\n".join(lines)


def _encoder_table(modality: str, config: Config, folder: Path) -> str:
    """The table of an encoder."""
    table = config.encoder[modality]
    model, pretrained = (toml_value(in_table(text, folder)) for text in (table.model, table.pretrained))
    layout = ENCODERS.get(table.kind, f"[encoder.{modality}]\nmodel = {{model}}\n\n")
    return layout.format(model=model, pretrained=pretrained)


def in_table(path: str, folder: Path) -> str:
    """A model or a file of weights for an `[encoder.NAME]` table; a folder in the project's folder begins with `./`."""
    short = shortened(path, folder)
    return short if short == path or is_path(short) else f"./{short}"


def _patterns(containers: list[Path], folder: Path) -> list[str]:
    """Several archives of one folder and kind as one pattern, if it matches no other file."""
    if len(containers) > 1 and len({(c.parent, c.suffix) for c in containers}) == 1:
        names = [c.name for c in containers]
        prefix = "".join(
            letters[0] for letters in itertools.takewhile(lambda c: len(set(c)) == 1, zip(*names, strict=False))
        )
        pattern = containers[0].parent / f"{prefix}*{containers[0].suffix}"
        if sorted(pattern.parent.glob(pattern.name)) == sorted(containers):
            return [shortened(str(pattern), folder)]
    return [shortened(str(c), folder) for c in containers]


def shortened(path: str, folder: Path) -> str:
    """A path for mmfeat.toml: relative to the project's folder if it is inside, else from the home folder."""
    home = str(Path.home())
    if path == str(folder):
        return "."
    if path.startswith(f"{folder}/") and path[len(f"{folder}/")] != "~":
        return path[len(f"{folder}/") :]
    return "~" + path[len(home) :] if path.startswith(home + "/") else path
