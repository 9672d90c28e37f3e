"""A tree of heads, outputs and means gives what its parts give."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.common.errors import RunError
from mmfeat.runs.composition import Composition, HeadPart, ProbePart, build_composition
from mmfeat.runs.ensembles import combined

WIDTHS, K = {"image": 6, "text": 4}, 3


def parts() -> dict:
    torch.manual_seed(0)
    made = {name: ProbePart(name, width, K) for name, width in WIDTHS.items()}
    for part in made.values():
        part.prior.normal_()
    made["concat-1"] = HeadPart("concat", {}, WIDTHS, n_classes=K, n_seeds=2)
    for seed in made["concat-1"].seeds:
        torch.nn.init.normal_(seed.output.weight)
    return {name: part.eval() for name, part in made.items()}


def items(n: int = 5, seed: int = 0) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(n, width, generator=generator) for name, width in WIDTHS.items()}
    present = {name: torch.rand(n, generator=generator) > 0.4 for name in WIDTHS}
    return {name: x * present[name][:, None] for name, x in inputs.items()}, present


def mean(*members, prior=(0.0, 0.0, 0.0)) -> dict:
    return {"members": list(members), "weights": [1 / len(members)] * len(members), "prior": list(prior)}


@torch.no_grad()
def test_a_single_part_is_the_whole():
    made, (inputs, present) = parts(), items()
    for name, part in made.items():
        logits, known = Composition(made, name, K)(inputs, present)
        wanted, there = part(inputs, present)
        assert torch.equal(logits, wanted)
        assert torch.equal(known, there)


@torch.no_grad()
def test_a_head_is_the_mean_of_its_seeds():
    made, (inputs, present) = parts(), items()
    wanted = torch.stack([seed(inputs, present) for seed in made["concat-1"].seeds]).mean(0)
    assert torch.allclose(Composition(made, "concat-1", K)(inputs, present)[0], wanted)


@torch.no_grad()
def test_a_row_without_the_modality_has_the_prior_of_an_output():
    made, (inputs, present) = parts(), items()
    present["text"][:] = False
    logits, known = made["text"](inputs, present)
    assert torch.equal(logits, made["text"].prior.expand(5, K))
    assert not known.any()


@given(weights=st.lists(st.floats(0.1, 5), min_size=3, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_a_mean_is_that_of_ensembles(weights, seed):
    made, (inputs, present) = parts(), items(7, seed)
    prior = np.array([0.5, -0.5, 2.0], np.float32)
    tree = {"members": list(made), "weights": weights, "prior": prior.tolist()}
    logits, known = Composition(made, tree, K)(inputs, present)
    each = [part(inputs, present) for part in made.values()]
    wanted = combined([one.numpy() for one, _ in each], [there.numpy() for _, there in each], weights, prior)
    assert np.allclose(logits.numpy(), wanted, atol=1e-5)
    assert known.numpy().tolist() == np.any([there.numpy() for _, there in each], axis=0).tolist()


@torch.no_grad()
def test_it_is_built_again_from_json_and_tensors():
    made, (inputs, present) = parts(), items()
    whole = Composition(made, mean(mean("image", "text"), "concat-1"), K)
    again = build_composition(json.loads(json.dumps(whole.describe())))
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again(inputs, present)[0], whole(inputs, present)[0])
    assert again.widths == WIDTHS


@torch.no_grad()
def test_an_opinion_is_the_encoders_own_output_or_the_whole_without_the_others():
    made, (inputs, present) = parts(), items()
    whole = Composition(made, "concat-1", K)
    assert torch.equal(whole.unimodal_prediction("image", inputs, present), made["image"](inputs, present)[0])
    del made["text"]
    alone = {"image": torch.zeros(5, dtype=torch.bool), "text": present["text"]}
    assert torch.equal(
        Composition(made, "concat-1", K).unimodal_prediction("text", inputs, present),
        made["concat-1"](inputs, alone)[0],
    )


def test_an_encoder_may_be_called_as_a_method_of_its_container():
    whole = Composition({"items": ProbePart("items", 4, K)}, "items", K)
    assert whole.describe()["parts"]["items"]["encoder"] == "items"
    assert whole.part("items").encoder == "items"


@pytest.mark.parametrize(
    "part", [{"kind": "tree"}, {"kind": "head", "head": "forest", "config": {}, "widths": {}, "seeds": 1}]
)
def test_what_describes_no_part_is_refused(part):
    with pytest.raises((ValueError, RunError), match=r"tree|forest"):
        build_composition({"n_classes": 2, "parts": {"a": part}, "tree": "a"})
