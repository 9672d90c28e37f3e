"""Text encoders: any encoder model of transformers, by name or folder."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfeat.common.errors import EncoderError, one_line
from mmfeat.common.files import digest_json
from mmfeat.config.encoder_tables import TextEncoderConfig
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.families.sentence_folders import stated_pooling
from mmfeat.encoders.families.text_cut import TextCut, cut_text
from mmfeat.encoders.families.text_names import TOWERS, hub_name, local_folder, nearest_text_models, two_towers
from mmfeat.encoders.foreign import check_files, never_ask, no_code, own_code_digest
from mmfeat.encoders.preparation import TextPreparation
from mmfeat.encoders.torchvision_remedy import make_torchvision_importable
from mmfeat.encoders.weights import ModelUnavailable, hub, hub_folder, load_strictly, read_state

_NOT_WIRING = {
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "id2label",
    "label2id",
    "use_cache",
    "gradient_checkpointing",
}
_LAYER = re.compile(r"\.(?:layers?|h|block|albert_layer_groups)\.(\d+)\.")
_POSITIONS = re.compile(r"(?:^|\.)(?:position_embeddings?|embed_positions|positions_embed|wpe)$")
_STEP = 8  # tokens
_UNUSED = ("pooler.", "cls.", "lm_head.", "classifier.")


class TextEncoder(Encoder):
    """A transformers encoder and its tokenizer; a sample is a caption.

    Attributes
    ----------
    model_config : PretrainedConfig
        The configuration of the model that the network is, or is a part of.
    source : str
        The model's folder, or its name on the hub.
    """

    kind = modality = "text"
    model_config: Any
    source: str

    def __init__(
        self, network: nn.Module, tokenizer: Any, architecture: str, *, config: TextEncoderConfig, pooling: str
    ) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.precision = config.precision
        self._pooling = pooling
        stated = stated_positions(network.config) or config.max_length
        self.preparation = TextPreparation(
            tokenizer, min(config.max_length, stated), positions=positions_of(network), embeddings=_rows_of(network)
        )
        self.width = network.config.hidden_size

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Embeddings `(B, D)`: the token states, pooled."""
        return self._pooled(self.network(**batch).last_hidden_state, batch["attention_mask"])

    def _pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """States `(B, L, D)` and their mask `(B, L)` to embeddings `(B, D)`."""
        mask = mask.unsqueeze(-1)  # (B, L, 1)
        if self._pooling == "cls":
            return states[:, 0]
        if self._pooling == "max":
            return states.masked_fill(mask == 0, float("-inf")).amax(1)
        return (states * mask).sum(1) / mask.sum(1).clamp(min=1)

    def forward_tokens(self, batch: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings `(B, D)`, the states of the first `number` tokens `(B, number, D)`, and their number in each caption."""
        return self._first_states(self.network(**batch).last_hidden_state, batch["attention_mask"], number)

    def _first_states(self, states: Tensor, mask: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of `forward_tokens` for states `(B, L, D)` and their mask `(B, L)`."""
        first = functional.pad(states[:, :number], (0, 0, 0, max(0, number - states.shape[1])))
        return self._pooled(states, mask), first, mask.sum(1).clamp(max=number)

    def pieces(self, batch: dict[str, Tensor], size: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Pieces of captions with similar lengths, each without unneeded padding."""
        mask = batch["attention_mask"]
        if not mask[:, 0].all():  # padded at the other end
            yield from super().pieces(batch, size)
            return
        lengths = mask.sum(1)
        for at in lengths.argsort(stable=True).split(size):
            yield at, {name: tensor[at, : int(lengths[at[-1]])] for name, tensor in batch.items()}

    def cut(self, trained: int) -> TextCut:
        """Between two blocks."""
        return cut_text(self, trained)

    def with_few_shapes(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same captions, padded to a multiple of 8 tokens or to the longest possible caption."""
        length = batch["input_ids"].shape[1]
        more = min(-(-length // _STEP) * _STEP, max(self.preparation.most, length)) - length
        tokenizer = self.preparation.tokenizer
        ends = (more, 0) if tokenizer.padding_side == "left" else (0, more)
        padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0}
        return {name: functional.pad(batch[name], ends, value=value) for name, value in padding.items()}

    def layers(self) -> dict[str, int]:
        """Each parameter's depth: 0 for embeddings, then the layers by number; final norms belong to the last layer."""
        numbers = {name: _LAYER.search(name) for name, _ in self.named_parameters()}
        top = max((int(found[1]) + 1 for found in numbers.values() if found), default=0)
        return {name: int(found[1]) + 1 if found else 0 if "embed" in name else top for name, found in numbers.items()}

    def weights_digest(self, tensors: dict[str, Tensor] | None = None) -> str:
        """Digest of the tensors, and of the configuration that determines their use (heads, activation ...)."""
        stated = self.network.config.to_diff_dict()
        wiring = {name: value for name, value in stated.items() if name not in _NOT_WIRING}
        parts = [super().weights_digest(tensors), json.loads(json.dumps(wiring, default=str))]
        code = own_code_digest(self.network)
        return digest_json([*parts, code] if code else parts)

    def own_files(self) -> list[Path]:
        """The model's folder, or its folder in the hub's cache."""
        folder = Path(self.source)
        return [folder if folder.is_absolute() else hub_folder(self.source)]

    @property
    def pooling(self) -> str:
        """`cls`, `mean` or `max` over the tokens that the attention mask keeps."""
        return self._pooling


def build_text_encoder(name: str, config: TextEncoderConfig, folder: Path, seed: int) -> TextEncoder:
    """Build an encoder from its `[encoder.NAME]` table.

    Raises
    ------
    EncoderError
        The model or folder does not exist, or its weights cannot be downloaded or do not fit.
    """
    quiet_transformers()
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    source = model_source(name, config.model, folder)
    pooling, trusted = config.pooling, config.trust_remote_code
    with (
        _explained(name, config.model),
        hub(name, config.model, "text", needed=not Path(source).is_absolute()),
        no_code(name, config.model, source),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(seed)
        model_config = AutoConfig.from_pretrained(source, trust_remote_code=trusted)
        check_reads_text(name, config.model, model_config)
        check_files(name, config.model, source)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)
        if tokenizer.pad_token is None:  # decoders have no padding token; the mask excludes padding
            tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token or tokenizer.unk_token, "right"
        if config.pretrained == "auto":
            network = AutoModel.from_pretrained(
                source, dtype=torch.float32, trust_remote_code=trusted, weights_only=True
            )
        else:
            network = AutoModel.from_config(model_config, dtype=torch.float32, trust_remote_code=trusted)
        if pooling == "auto":
            check_pooling(name, config.model, model_config)
            pooling = stated_pooling(name, source)
    network = without_unread(network)
    if not hasattr(network.config, "hidden_size"):
        raise EncoderError(
            f"encoder.{name}: {config.model!r} ({model_config.model_type}) is not a text encoder: its configuration has no "
            f"hidden_size. Use another model of transformers"
        )
    if config.pretrained not in ("auto", "random"):
        path = folder / Path(config.pretrained).expanduser()
        load_strictly(network, read_state(path), path, unused=_UNUSED)
    encoder = TextEncoder(network, tokenizer, _architecture(network), config=config, pooling=pooling)
    encoder.model_config, encoder.source = model_config, source
    _try_out(encoder.eval(), name, config.model)
    return encoder


def _try_out(encoder: TextEncoder, name: str, model: str) -> None:
    """Encode two captions of different lengths.

    Raises
    ------
    EncoderError
        The network does not encode text.
    """
    try:
        encoder.encode(encoder.collate(["a", "a a a"]), torch.device("cpu"))  # one of them is padded
    except EncoderError as error:
        raise EncoderError(f"encoder.{name}: {error}") from None
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
        OverflowError,
        NotImplementedError,
    ) as error:
        raise EncoderError(f"encoder.{name}: {model!r} does not encode text: {one_line(error)}") from None


def stated_positions(model_config: Any) -> int | None:
    """The number of positions in a configuration; None without a limit."""
    positions = getattr(model_config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None  # -1 for XLNet


def _rows_of(network: nn.Module) -> int | None:
    """Number of tokens with an embedding; None if the network has no single embedding table."""
    try:
        return getattr(network.get_input_embeddings(), "num_embeddings", None)
    except (NotImplementedError, AttributeError):
        return None


def positions_of(network: nn.Module) -> int | None:
    """Longest text in tokens that the network's position embeddings allow; None if it has no such table.

    RoBERTa, XLM-R and MPNet start after the padding token's position, BART and OPT at the third row. Their tables therefore
    have two more rows than the longest text has tokens.
    """
    limits = []
    for path, module in network.named_modules():
        if isinstance(module, nn.Embedding) and _POSITIONS.search(path):
            unused = module.padding_idx + 1 if module.padding_idx is not None else getattr(module, "offset", 0)
            limits.append(module.num_embeddings - unused)
    return min(limits, default=None)


def without_unread(network: nn.Module) -> nn.Module:
    """Remove a network's decoder and pooler, which no embedding depends on."""
    if getattr(network.config, "is_encoder_decoder", False):
        network = network.get_encoder()
    if isinstance(getattr(network, "pooler", None), nn.Module):
        network.pooler = None
    return network


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder.

    Raises
    ------
    EncoderError
        The tokenizer is missing or damaged.
    """
    quiet_transformers()
    from transformers import AutoTokenizer

    try:
        check_files(folder.name, str(folder), str(folder))
        with no_code(folder.name, str(folder), str(folder)):
            return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except EncoderError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise EncoderError(f"{folder}: no tokenizer that can be read: {one_line(error)}") from None


def quiet_transformers() -> None:
    """Make transformers importable, and stop it from printing and asking questions."""
    make_torchvision_importable()
    never_ask()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def model_source(name: str, model: str, folder: Path) -> str:
    """The hub's current name of a model, or the absolute path of a folder (`./`, `~` or `/`)."""
    path = local_folder(model, folder)
    if path is None:
        return hub_name(model)
    if not (path / "config.json").is_file():
        raise EncoderError(f"encoder.{name}: no transformers model in {path} (no config.json there)")
    return str(path)


def check_reads_text(name: str, model: str, model_config: Any) -> None:
    """Refuse image models, image-text models and their halves, with a clearer error than a missing tokenizer.

    Raises
    ------
    EncoderError
        The model does not read text only; the message lists alternatives.
    """
    from transformers import AutoModel

    kind = AutoModel._model_mapping.get(type(model_config), None)
    where, family = f"encoder.{name}: {model!r}", model_config.model_type
    if getattr(kind, "main_input_name", "") == "pixel_values":
        raise EncoderError(
            f"{where} is an image model of transformers ({family}). For images, mmfeat uses timm and "
            f'torchvision, with modality = "image". To find a model: mmfeat encoders PATTERN'
        )
    if (hasattr(model_config, "vision_config") and not hasattr(model_config, "hidden_size")) or (
        kind is None and family.endswith(TOWERS) and not hasattr(model_config, "auto_map")
    ):
        raise EncoderError(f"{where} {two_towers(family)}")


def check_pooling(name: str, model: str, model_config: Any) -> None:
    """Refuse to choose the pooling of a model that is trained to use its end token.

    Raises
    ------
    EncoderError
        The model is CLIP's text model.
    """
    if model_config.model_type == "clip_text_model":
        raise EncoderError(
            f"encoder.{name}: {model!r} uses the state of its end token (clip_text_model), which mmfeat does not support. "
            f'In mmfeat.toml under [encoder.{name}] set: pooling = "mean" (or cls, max)'
        )


@contextlib.contextmanager
def _explained(name: str, model: str) -> Iterator[None]:
    """Add the nearest names to the error about a model that cannot be found."""
    try:
        yield
    except ModelUnavailable as error:
        if local_folder(model, Path()) is not None:
            raise
        from mmfeat.encoders.model_names import is_image_model

        if is_image_model(model):
            raise EncoderError(
                f"encoder.{name}: {model!r} is an image model. In mmfeat.toml under [encoder.{name}] set: "
                f'modality = "image"'
            ) from None
        near = nearest_text_models(model)
        raise EncoderError(f"{error}. Nearest known names: {', '.join(near)}" if near else str(error)) from None


def _architecture(network: nn.Module) -> str:
    """A name such as `bert-L6-H384`, which does not depend on where the weights are stored."""
    config = network.config
    layers = getattr(config, "num_hidden_layers", "")
    return f"{config.model_type}-L{layers}-H{config.hidden_size}"
