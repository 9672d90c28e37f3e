"""The mmfeat.toml that `mmfeat init` writes."""

TEMPLATE = """\
# Paths start at this file. A line left out has its default. See it all with: mmfeat status --config
schema = 1
metric = "samples-f1"              # what is chosen for: samples-f1, micro-f1, macro-f1, map, loss
seed   = {seed}
device = "auto"                    # auto, cpu, cuda, cuda:1

[data]
source    = {source}
images    = {images}
id        = {id}                   # columns of the source
image     = {image}
caption   = {caption}
labels    = {labels}
{group}          # a column: rows of one group stand in one split
separator = {separator}                     # between the labels of one cell
{classes}          # the class list: its column label

[split]                            # shares of the labelled rows; a row that has a split keeps it
val  = {val}                         # chooses: epochs, rounds, best run
test = {test}                         # read by nothing but: mmfeat evaluate --split test

# A change under [encoder.NAME] encodes that encoder's rows again and no others.
# A further encoder is a further table, with modality = "image" or "text".
{encoders}[store]
path  = "features"                 # may be shared by several projects
dtype = "float16"                  # float16, float32

{finetune:<34} # epochs, patience, lr, batch_size, optimizer, weights, augment; defaults: the paper's

[fuse]
head   = "{head}"               # mmfeat fuse --help lists them
inputs = {inputs}         # names of encoders
seeds  = 3
{head_table:<34} # what only this head has: lr, dropout, epochs ...

[selftrain]
rounds = 5
policy = "all"                     # all: every unlabelled row takes part in every round

[predict]
threshold = 0.5                    # a label needs a probability above it
empty     = "most-probable"        # where nothing passes: most-probable, none
"""

ENCODERS = {
    "image": """\
[encoder.image]
model      = "efficientnet_b4"     # any timm name
pretrained = "auto"                # auto: the model's own; random; a .safetensors or .pth file
checkpoint = "latest"              # latest from finetune, if any; none; checkpoints/image-1
size       = "auto"                # pixels; auto: as pretrained
precision  = "float32"             # float32, bfloat16, float16: of the forward pass
flip       = false                 # mean over the image and its mirror image
tokens     = 0                     # 3: keep a 3 x 3 grid of spatial tokens beside the pooled embedding

""",
    "text": """\
[encoder.text]
model      = "google/bert_uncased_L-2_H-128_A-2"   # any transformers name, or a folder (./, ~ or /)
pretrained = "auto"
checkpoint = "latest"              # latest from finetune, if any; none; checkpoints/text-1
max_length = 64
pooling    = "auto"                # auto: as the model says; cls, mean, max
precision  = "float32"
tokens     = 0                     # 32: keep the states of the first 32 tokens

""",
}
