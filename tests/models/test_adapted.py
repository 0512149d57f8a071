"""Flow networks of diffusers as average velocities."""

import copy

import pytest
import torch
from torch import nn

import alphaflow as af
from alphaflow.cli import adapt as cli_adapt
from alphaflow.derivatives.ways import WAYS, quotient
from alphaflow.models import ADAPTERS, FlowFacts
from alphaflow.models.flow_facts import FACTS, NOISE
from alphaflow.models.lora import add_lora, merge_lora
from tiny_flows import tiny_batch, tiny_flow

pytest.importorskip("diffusers")
Y = torch.tensor([0, 1, 2, 3])


def adapted(name: str, adapter: str = "zero", net=None, **told: int) -> af.models.AdaptedFlow:
    net = net or tiny_flow(name)
    torch.manual_seed(2)
    return af.adapt(net, adapter, **(told or {"num_classes": 3}))


def as_its_pipeline_does(name, net, z, t, tokens, pooled):
    """The velocity ε - x by the plain network: the time and the sign as pipeline_*.py of diffusers have them, and
    its own functions for the layout."""
    step = 1000 * t
    named = {"encoder_hidden_states": tokens, "return_dict": False}
    there = torch.ones(tokens.shape[:2])
    B, C, H, W = len(z), z.shape[1], z.shape[-2], z.shape[-1]
    if name == "SD3Transformer2DModel":
        return net(hidden_states=z, timestep=step, pooled_projections=pooled, **named)[0]
    if name == "SanaTransformer2DModel":
        return net(
            hidden_states=z, timestep=step * net.config.timestep_scale, encoder_attention_mask=there, **named
        )[0]
    if name == "Lumina2Transformer2DModel":
        return -net(hidden_states=z, timestep=1 - step / 1000, encoder_attention_mask=there.bool(), **named)[0]
    if name == "AuraFlowTransformer2DModel":
        return net(hidden_states=z, timestep=step / 1000, **named)[0]
    if name == "WanTransformer3DModel":
        return net(hidden_states=z, timestep=step, **named)[0]
    if name == "LTXVideoTransformer3DModel":
        from diffusers import LTXPipeline as LTX

        sides = {"num_frames": z.shape[2], "height": H, "width": W}
        packed = LTX._pack_latents(z)
        out = net(hidden_states=packed, timestep=step, encoder_attention_mask=there, **sides, **named)[0]
        return LTX._unpack_latents(out, **sides)
    if name == "FluxTransformer2DModel":
        from diffusers import FluxPipeline as Flux

        ids = Flux._prepare_latent_image_ids(B, H // 2, W // 2, z.device, z.dtype)
        given = {"pooled_projections": pooled, "txt_ids": torch.zeros(tokens.shape[1], 3), "img_ids": ids, **named}
        out = net(hidden_states=Flux._pack_latents(z, B, C, H, W), timestep=step / 1000, **given)[0]
        return Flux._unpack_latents(out, H, W, vae_scale_factor=1)
    from diffusers import QwenImagePipeline as Qwen

    given = {"encoder_hidden_states_mask": there, "img_shapes": [[(1, H // 2, W // 2)]] * B, **named}
    out = net(hidden_states=Qwen._pack_latents(z, B, C, H, W), timestep=step / 1000, **given)[0]
    return Qwen._unpack_latents(out, H, W, vae_scale_factor=1)[:, :, 0]


@pytest.mark.parametrize("name", FACTS)
def test_at_r_equal_to_t_it_is_the_network_as_its_pipeline_calls_it(name):
    z, _, r, t = tiny_batch(name)
    for adapter in ADAPTERS:
        flow = adapted(name, adapter)
        with torch.no_grad():
            tokens, pooled, _ = flow.condition(Y, z)
            plain = as_its_pipeline_does(name, tiny_flow(name), z, t, tokens, pooled)
            u, far = flow(z, t, t, Y), flow(z, r, t, Y)
        assert u.shape == z.shape and plain.std() > 0.01
        if adapter == "gate":
            torch.testing.assert_close(u, plain)
        else:
            assert torch.equal(u, plain), adapter
        assert torch.equal(far[3], u[3])  # its last row has r = t
        moved = (far - u)[:3].flatten(1).norm(dim=1)
        assert (moved == 0).all() if adapter == "zero" else (moved > 1e-4).all()


@pytest.mark.parametrize("name", FACTS)
def test_du_dt_in_the_same_pass_is_that_of_forward_mode(name):
    z, v, r, t = tiny_batch(name)
    flow = adapted(name, "gate")
    slopes = [WAYS[way](lambda z, t: flow(z, r, t, Y), z, v, t)[1] for way in ("fused", "forward")]
    assert slopes[1].norm() > 0.1
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4 * slopes[1].abs().max().item())


class Exact(nn.Module):
    """Sinusoids as `Timesteps` makes them, in the precision of the time; diffusers' are float32's."""

    def __init__(self, like):
        super().__init__()
        self.like = like

    def forward(self, t):
        half = self.like.num_channels // 2
        steps = torch.arange(half, dtype=t.dtype) / (half - self.like.downscale_freq_shift)
        angles = self.like.scale * t[:, None] * torch.exp(-9.210340371976184 * steps)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


def test_the_command_offers_every_adapter():
    assert cli_adapt.ADAPTERS == ADAPTERS  # written again there, so that --help loads no torch


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_du_dt_is_what_differences_in_float64_say(adapter):
    name = "SD3Transformer2DModel"
    flow = adapted(name, adapter, tiny_flow(name, qk_norm=None)).double()  # that norm computes in float32
    torch.manual_seed(3)
    if adapter == "zero":
        nn.init.normal_(flow.interval.mlp[-1].weight, std=0.3)
    embedding = flow.net.time_text_embed
    embedding.time_proj = Exact(embedding.time_proj)
    z, v, r, t = (part.double() for part in tiny_batch(name))
    _, slope = WAYS["fused"](lambda z, t: flow(z, r, t, Y), z, v, t)
    reference = quotient(lambda z, t: flow(z, r, t, Y), z, v, t, h=1e-6)
    assert (slope - reference).norm() < 1e-5 * reference.norm()


def test_the_gradient_is_that_of_two_passes():
    z, _, _, _ = tiny_batch("SD3Transformer2DModel")
    gradients = []
    for way in ("fused", "reverse"):
        flow = adapted("SD3Transformer2DModel", "split")
        out = af.MeanFlow(derivative=way)(flow, z, Y, generator=torch.Generator().manual_seed(4))
        out.loss.backward()
        gradients.append({name: weight.grad for name, weight in flow.named_parameters()})
    reached = [name for name, grad in gradients[0].items() if grad is not None]
    assert {name.split(".")[0] for name in reached} == {"net", "condition"}
    for name in reached:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-3, atol=1e-5)


def test_training_tells_it_r_and_the_class_and_words():
    z, v, r, t = tiny_batch("SanaTransformer2DModel")
    words = torch.tensor([[1, 2, 0], [3, 0, 0], [0, 0, 0], [4, 5, 6]])
    for y, told in ((Y, {"num_classes": 3}), (words, {"vocabulary": 7, "length": 3})):
        flow = adapted("SanaTransformer2DModel", **told)
        optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
        for _ in range(3):
            (flow(z, r, t, y) - v).square().mean().backward()
            optimizer.step(), optimizer.zero_grad()
        with torch.no_grad():
            u = flow(z, r, t, y)
            for other in (flow(z, 0.5 * r, t, y), flow(z, r, t, y.roll(1, 0))):
                assert ((u - other).flatten(1).norm(dim=1)[1:] > 1e-4).all()
            assert torch.equal(flow(z, r, t), flow(z, r, t, torch.full_like(y, 3 if y.ndim == 1 else 0)))


def test_it_takes_the_tensors_that_the_network_takes_and_guidance_drops_them():
    z, _, _, t = tiny_batch("SD3Transformer2DModel")
    flow = af.adapt(tiny_flow("SD3Transformer2DModel"))
    y = {"encoder_hidden_states": torch.randn(4, 5, 12), "pooled_projections": torch.randn(4, 10)}
    with torch.no_grad():
        plain = tiny_flow("SD3Transformer2DModel")(hidden_states=z, timestep=1000 * t, **y).sample
        assert torch.equal(flow(z, t, t, y), plain)
    null = {"encoder_hidden_states": torch.zeros(5, 12), "pooled_projections": torch.zeros(10)}
    objective = af.MeanFlow(guidance=af.Guidance(null=null, omega=2.0, drop=0.5))
    objective(flow, z, y, generator=torch.Generator().manual_seed(0)).loss.backward()
    assert flow.net.proj_out.weight.grad.isfinite().all()
    for wrong in ({"pooled_projections": y["pooled_projections"]}, Y):
        with pytest.raises(ValueError, match=r"give encoder_hidden_states|has no classes"):
            flow(z, t, t, wrong)


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_no_velocity(name):
    with pytest.raises(af.UserError, match=f"{name} predicts noise"):
        af.adapt(type(name, (nn.Module,), {})())


def test_what_answers_no_velocity_is_refused_and_others_come_with_their_facts():
    wrong = {
        "a velocity has as many": tiny_flow("SD3Transformer2DModel", out_channels=2),
        "SANA-Sprint": tiny_flow("SanaTransformer2DModel", guidance_embeds=True),
        "takes more than z and words": tiny_flow("QwenImageTransformer2DModel", zero_cond_t=True),
        "told a picture": tiny_flow("WanTransformer3DModel", image_dim=8),
    }
    for words, net in wrong.items():
        with pytest.raises(af.UserError, match=words):
            af.adapt(net)
    net = tiny_flow("SD3Transformer2DModel")
    with pytest.raises(af.UserError, match="unknown adapter 'sero'"):
        af.adapt(net, "sero")
    z, _, _, t = tiny_batch("SD3Transformer2DModel")
    before = af.adapt(net)(z, t, t)
    net.__class__ = type("Another", (type(net),), {})
    with pytest.raises(af.UserError, match="no facts are known of a Another"):
        af.adapt(net)
    assert torch.equal(af.adapt(net, facts=FlowFacts(pooled="pooled_projection_dim"))(z, t, t), before)
    with pytest.raises(af.UserError, match="no part 'time_embed'"):
        af.adapt(net, facts=FlowFacts(vector="time_embed"))
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        af.adapt(tiny_flow("SD3Transformer2DModel"))(z[..., :7], t, t)


@pytest.mark.parametrize("name", ["SD3Transformer2DModel", "FluxTransformer2DModel", "WanTransformer3DModel"])
def test_lora_trains_little_and_goes_back_into_the_weights(name):
    pytest.importorskip("peft")
    z, v, r, t = tiny_batch(name)
    flow = adapted(name, "gate")
    before, names = flow(z, r, t, Y).detach(), set(flow.state_dict())
    add_lora(flow, rank=2)
    assert torch.equal(flow(z, r, t, Y), before)
    trained = {weight for weight, _ in flow.named_parameters()}
    assert trained == set(flow.state_dict())
    assert {one.split(".")[0] for one in trained if ".lora_" not in one} == {"later", "condition"}
    inside = {one.split(".lora_")[0] for one in trained if ".lora_" in one}
    assert inside and not any("norm" in one for one in inside)
    assert any("attn" in one for one in inside) and any("ff" in one or "mlp" in one for one in inside)
    average = copy.deepcopy(flow)
    frozen = dict(flow.named_buffers())
    assert all(average.get_buffer(f"net.{one}") is frozen[f"net.{one}"] for one in flow.frozen)
    weights = [weight.clone() for weight in frozen.values()]
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(3):
        (flow(z, r, t, Y) - v).square().mean().backward()
        optimizer.step(), optimizer.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(weights, frozen.values()))
    after = flow(z, r, t, Y).detach()
    assert (after - before).norm() > 1e-3 and torch.equal(average(z, r, t, Y), before)
    merge_lora(flow)
    assert set(flow.state_dict()) == names
    torch.testing.assert_close(flow(z, r, t, Y), after, rtol=1e-4, atol=1e-5)
    assert torch.equal(average(z, r, t, Y), before)
