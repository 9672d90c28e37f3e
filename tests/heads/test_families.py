"""What every family of heads keeps: missing modalities, stored tokens, stacked parameters, what each is made of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.heads import CONFIGS, WIDTHS, made, permuted
from torch.func import functional_call, vmap

from mmfeat.common.errors import RunError
from mmfeat.config.schema import HEADS as NAMES
from mmfeat.config.schema import FuseConfig
from mmfeat.heads import HEADS, build_head, head_config, head_for, takes
from mmfeat.heads.noise import QUIET, Noise, Widths
from mmfeat.heads.training.fit_heads import FitData, fit_head
from mmfeat.heads.training.head_logits import head_logits

SHAPES = {"image": (4, 10), "text": (6, 12)}
TOKEN_READERS = [
    name for name, head in HEADS.items() if head.token_names(head_config(name, FuseConfig()), list(WIDTHS))
]


def rows(n: int, seed: int = 0) -> tuple[dict, dict]:
    """Embeddings and tokens of some rows, all of them there, texts of all lengths from 1."""
    g = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(n, d, generator=g) for name, d in WIDTHS.items()}
    inputs |= {f"{name}/tokens": torch.randn(n, *shape, generator=g).half() for name, shape in SHAPES.items()}
    present = {name: torch.ones(n, dtype=torch.bool) for name in WIDTHS}
    lengths = {"image": torch.full((n,), 4), "text": torch.arange(n) % 6 + 1}
    present |= {f"{name}/tokens": torch.arange(t) < lengths[name][:, None] for name, (t, _) in SHAPES.items()}
    return inputs, present


def with_tokens(data: FitData) -> FitData:
    inputs, present = rows(len(data.labels), 5)
    for name in WIDTHS:
        inputs[f"{name}/tokens"][:, 0, : data.labels.shape[1]] = data.inputs[name][:, : data.labels.shape[1]].half()
    return dataclasses.replace(data, inputs={**inputs, **data.inputs}, present={**present, **data.present})


def randomised(name: str, tokens: dict | None = None, seed: int = 0):
    """A head none of whose weights is zero, and with standardisation of its own."""
    torch.manual_seed(seed)
    head = build_head(name, WIDTHS, 5, CONFIGS[name], tokens=tokens).eval()
    with torch.no_grad():
        for tensor in head.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.2)
    inputs, present = rows(50, 9)
    head.fit_standardisation(inputs, present)
    return head


def test_the_registry_the_settings_and_their_choices_name_the_same_heads():
    assert tuple(HEADS) == tuple(NAMES)
    assert {"head", "inputs", "seeds", "folds"} | set(HEADS) == {
        f.name for f in dataclasses.fields(FuseConfig) if not f.metadata.get("internal")
    }
    assert (head_for(1), head_for(2), head_for(5)) == ("linear", "crossattn", "crossattn")
    assert all(takes(head_for(n), n) for n in (1, 2, 3))


@pytest.mark.parametrize("tokens", [None, SHAPES], ids=["pooled", "tokens"])
@pytest.mark.parametrize("name", HEADS)
def test_what_stands_for_an_absent_modality_does_not_matter(name, tokens):
    head = randomised(name, tokens)
    inputs, present = rows(8)
    present["image"][2] = present["text"][3] = False
    present["image"][4] = present["text"][4] = False  # a row with nothing
    present |= {f"{n}/tokens": present[f"{n}/tokens"] & present[n][:, None] for n in WIDTHS}
    before = head(inputs, present)
    for key, there in present.items():
        inputs[key][~there] = 1e4  # of tokens: the padding, too
    after = head(inputs, present)
    assert torch.isfinite(after).all()
    assert torch.equal(before, after)
    assert not torch.allclose(after[2], after[4])  # what is there still counts


@pytest.mark.parametrize("tokens", [None, SHAPES], ids=["pooled", "tokens"])
@pytest.mark.parametrize("name", HEADS)
def test_stacked_heads_are_the_same_functions(name, tokens):
    heads = [randomised(name, tokens, seed) for seed in range(3)]
    inputs, present = rows(6)
    present["text"][1] = False
    stacked = {n: torch.stack([dict(h.named_parameters())[n] for h in heads]) for n, _ in heads[0].named_parameters()}
    found = vmap(lambda p: functional_call(heads[0], p, (inputs, present)))(stacked)
    for logits, head in zip(found, heads, strict=True):
        assert torch.allclose(logits, head(inputs, present), atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_row_does_not_see_the_others(name):
    head = randomised(name, SHAPES)
    inputs, present = rows(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = head({k: v[order] for k, v in inputs.items()}, {k: v[order] for k, v in present.items()})
    assert torch.allclose(shuffled, head(inputs, present)[order], atol=1e-6)


@pytest.mark.parametrize("name", TOKEN_READERS)
def test_stored_tokens_are_read_and_fitted_whatever_the_order_of_rows(name):
    data = with_tokens(made(n=200))
    data.present["text/tokens"][5] = False  # a caption of which no token is there
    order = np.random.default_rng(3).permutation(200)
    a, b = fit_head(name, data, CONFIGS[name]), fit_head(name, permuted(data, order), CONFIGS[name])
    assert a.head.token_shapes
    assert a.history == b.history
    again = build_head(name, WIDTHS, 4, CONFIGS[name], tokens=SHAPES)
    again.load_state_dict(a.head.state_dict())
    assert np.array_equal(head_logits(again, data), head_logits(a.head, data))
    other = dataclasses.replace(data, inputs={**data.inputs, "image/tokens": data.inputs["image/tokens"].flip(0)})
    assert not np.allclose(head_logits(a.head, other), head_logits(a.head, data))


@pytest.mark.parametrize("name", [name for name in HEADS if name not in TOKEN_READERS])
def test_heads_that_read_no_tokens_are_the_same_beside_them(name):
    plain, beside = (fit_head(name, data, CONFIGS[name]) for data in (made(), with_tokens(made())))
    assert plain.history == beside.history
    assert plain.head.reads == list(WIDTHS)


@pytest.mark.parametrize("name", TOKEN_READERS)
@pytest.mark.parametrize("how", ["chunked", "projected", "stored"])
def test_what_tokens_are_made_of_is_said(name, how):
    config = dataclasses.replace(CONFIGS[name], tokens=how)
    head = build_head(name, WIDTHS, 3, config, tokens=SHAPES)
    assert bool(head.token_shapes) == (how == "stored")
    wanted = {"chunked": "3 tokens of 16", "projected": "8 tokens of 16", "stored": "4 tokens of 10"}[how]
    assert f"{wanted} from image" in head.describe()
    if how == "stored":
        with pytest.raises(RunError, match=f"fuse.{name}.tokens = 'stored', but encoder 'image' stores none"):
            build_head(name, WIDTHS, 3, config)


@pytest.mark.parametrize("name", TOKEN_READERS)
def test_heads_of_attention_divide_its_width(name):
    with pytest.raises(RunError, match=rf"^fuse.{name}.heads = 5 does not divide"):
        build_head(name, WIDTHS, 3, dataclasses.replace(CONFIGS[name], heads=5))


@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (4, 2)])
def test_cross_attention_is_that_of_torch(heads, layers):
    """Keys and values are never computed; the result is that of torch.nn.MultiheadAttention, which does."""
    config = dataclasses.replace(CONFIGS["crossattn"], heads=heads, layers=layers)
    torch.manual_seed(2)
    head = build_head("crossattn", WIDTHS, 3, config)
    inputs, present = rows(7)
    x = {name: inputs[name] for name in WIDTHS}
    with torch.no_grad():
        head.layers[0].bias.normal_()
        found, _ = head.attention(x, present)
        tokens, query = head.sources[0](x, present)[0], x["text"][:, None]
        for layer, norm in zip(head.layers, head.norms, strict=True):
            theirs = torch.nn.MultiheadAttention(16, heads, batch_first=True)
            theirs.in_proj_weight.copy_(torch.cat([torch.eye(16), layer.to_key[0].weight, layer.to_value[0].weight]))
            theirs.in_proj_bias.copy_(torch.cat([torch.zeros(16), torch.randn(16), layer.bias]))
            theirs.out_proj.weight.copy_(torch.eye(16))
            theirs.out_proj.bias.zero_()
            asked, keys = layer.to_query(query), tokens + layer.positions[0]
            query = norm(theirs(asked, keys, keys)[0] + asked)
    assert torch.allclose(found, query[:, 0], atol=1e-5)


@pytest.mark.parametrize(("token_width", "layers"), [(12, 1), (12, 2), (16, 1), (16, 2)])
def test_the_residual_of_cross_attention_is_the_text_embedding_itself(token_width, layers):
    """Equation 37: LayerNorm(attention + X). X is 12 wide; another width takes a linear layer, as the first layer's input."""
    more = {"residual": "input", "token_width": token_width, "layers": layers}
    head = build_head("crossattn", WIDTHS, 3, dataclasses.replace(CONFIGS["crossattn"], **more))
    assert hasattr(head, "to_residual") == (token_width != WIDTHS["text"])
    inputs, present = rows(7)
    x = {name: inputs[name] for name in WIDTHS}
    tokens, there = head.sources[0](x, present)
    with torch.no_grad():
        found, _ = head.attention(x, present)
        query, residual = x["text"][:, None], x["text"][:, None]
        if token_width != WIDTHS["text"]:
            residual = head.to_residual(residual)
        for layer, norm in zip(head.layers, head.norms, strict=True):
            query = residual = norm(layer(query, [tokens], [there])[0] + residual)
    assert torch.allclose(found, query[:, 0], atol=1e-6)


def test_without_positions_the_order_of_tokens_does_not_matter():
    inputs, present = rows(7)
    flipped = {**inputs, "image/tokens": inputs["image/tokens"].flip(1)}
    for positions in (True, False):
        config = dataclasses.replace(CONFIGS["crossattn"], positions=positions)
        head = build_head("crossattn", WIDTHS, 3, config, tokens={"image": SHAPES["image"]})
        assert any("positions" in name for name, _ in head.named_parameters()) is positions
        assert torch.allclose(head(inputs, present), head(flipped, present), atol=1e-5) is not positions


def test_fingerprints_leave_out_settings_that_a_release_had_not():
    for name in HEADS:
        usual = head_config(name, FuseConfig())
        later = {f.name: f for f in dataclasses.fields(usual) if f.metadata.get("later")}
        assert set(usual.of_training()) == {f.name for f in dataclasses.fields(usual)} - set(later)
        for key, field in later.items():
            choices = field.metadata["choices"] or [True, False, 0.5]
            other = next(value for value in choices if value != field.default)
            assert dataclasses.replace(usual, **{key: other}).of_training() == {**usual.of_training(), key: other}


def test_cross_attention_looks_at_all_encoders_but_the_one_that_asks():
    widths = {**WIDTHS, "sound": 20}
    head = build_head("crossattn", widths, 3, CONFIGS["crossattn"], tokens={"image": (4, 10)})
    assert head.describe() == "1 query from text, 4 tokens of 10 from image (stored), 2 tokens of 16 from sound"
    inputs, present = rows(5)
    inputs["sound"], present["sound"] = torch.randn(5, 20), torch.ones(5, dtype=torch.bool)
    present["image/tokens"][0] = False
    _, weights = head.attention({k: v.float() for k, v in inputs.items()}, present)
    assert weights.shape == (5, 6, 1)
    assert torch.allclose(weights.sum(1), torch.ones(5, 1), atol=1e-6)
    assert torch.count_nonzero(weights[0, :4]) == 0


def test_gates_and_weights_follow_the_input_and_what_is_there():
    inputs, present = rows(6)
    present["image"][0] = False
    x = {name: torch.where(present[name][:, None], inputs[name], 0.0) for name in WIDTHS}
    gates = randomised("gated").gates(x, present)
    assert torch.allclose(gates.sum(1), torch.ones_like(gates[:, 0]), atol=1e-6)
    assert torch.equal(gates[0, 1], torch.ones_like(gates[0, 1]))
    assert gates[1:].std(0).min() > 1e-4
    head = randomised("weighted")
    weights = head.weights(
        torch.stack([layer([x[n]]) for n, layer in zip(WIDTHS, head.hidden, strict=True)], 1), present
    )
    assert weights[0, 0] == 0
    assert weights[1:].std(0).min() > 1e-4


@pytest.mark.parametrize("name", [name for name in HEADS if takes(name, 2)])
def test_modality_dropout_hides_some_of_what_a_row_has_and_never_all(name):
    head = randomised(name, SHAPES)
    inputs, present = rows(40)
    present["image"][:10] = False
    present["image/tokens"][:10] = False
    x, counter = head.standardise(inputs, present), Widths()
    whole = head.logits(x, present, counter)
    assert counter.counted["modality_dropout"] == 2
    random = torch.randint(256, (40, 2), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    noise = Noise({"modality_dropout": torch.tensor(128, dtype=torch.uint8)}, {"modality_dropout": random})
    found = head.logits(x, present, noise)
    alone = []
    for only in WIDTHS:
        there = {key: p if key.startswith(only) else torch.zeros_like(p) for key, p in present.items()}
        alone.append(head.logits(head.standardise(inputs, there), there, QUIET))
    same = torch.stack([torch.isclose(found, logits, atol=1e-5).all(1) for logits in (whole, *alone)])
    assert same.any(0).all()  # a row is seen whole, or by one of its modalities
    assert same[0, :10].all()  # where there is but one, it stays
    assert same[1, 10:].any()
    assert same[2, 10:].any()


def test_more_classes_than_queries_share_them(monkeypatch):
    monkeypatch.setattr("mmfeat.heads.labelquery.MAX_QUERIES", 3)
    head = build_head("labelquery", WIDTHS, 7, CONFIGS["labelquery"])
    inputs, present = rows(4)
    logits = head(inputs, present)
    assert logits.shape == (4, 7)
    assert len(head.queries) == 3
    head.start_from(torch.arange(7.0))
    assert torch.allclose(head(inputs, present) - logits, torch.arange(7.0), atol=1e-6)


@pytest.mark.parametrize("key", ["image", "text/tokens"])
def test_other_widths_than_the_head_was_made_for_are_named(key):
    head = build_head("labelquery", WIDTHS, 3, CONFIGS["labelquery"], tokens=SHAPES)
    inputs, present = rows(4)
    inputs[key] = inputs[key][..., :-1]
    with pytest.raises(RunError, match=rf"^'{key}' has a width of .* the head was trained on"):
        head(inputs, present)


@pytest.mark.parametrize("name", HEADS)
def test_labels_known_in_part_teach_and_the_others_do_not(name):
    data = made(n=200)
    labels = data.labels.clone()
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < 0.4] = -1
    labels[3] = -1  # a row of which nothing is known
    labels[:, 1] = -1
    config = dataclasses.replace(CONFIGS[name], epochs=5, lr=5e-3)
    fitted = fit_head(name, dataclasses.replace(data, labels=labels), config)
    logits = head_logits(fitted.head, data)
    assert np.isfinite(logits).all()
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]
    assert np.allclose(fitted.head.output.bias[1].item(), 0)  # neither more yes than no, nor a gradient
