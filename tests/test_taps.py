"""Hooks against explicit attention with injected keys and values, bit for bit; and hooks that go away."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from dragonkit.editor import edit
from dragonkit.edits import Move
from dragonkit.errors import InputError
from dragonkit.guidance import Guidance
from dragonkit.taps import attentions, counted, features, record, rewire, tap, unfused
from dragonkit.trace import Record
from tests.tiny import box, fresh_model, hooks, picture, tiny_model

MOVE = Move(box(64, 96, 8, 8, 32, 40), by=(24, 16))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def inputs(model):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(3, 4, 8, 16, generator=generator)
    return z, {k: v.expand(3, -1, -1) for k, v in model.embed("a ball").items()}


def first(inputs, n=1):
    z, cond = inputs
    return z[:n], {k: v[:n] for k, v in cond.items()}


def last(inputs):
    z, cond = inputs
    return z[1:], {k: v[1:] for k, v in cond.items()}


class Injected:
    """Attention that projects keys and values from given tokens itself: what the hooks must equal."""

    def __init__(self, context):
        self.context = context

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        b, n, c = hidden_states.shape

        def heads(x):
            return x.view(b, -1, attn.heads, c // attn.heads).transpose(1, 2)

        context = self.context(hidden_states).expand(b, -1, -1)
        out = F.scaled_dot_product_attention(
            heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        )
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).reshape(b, n, c)))


@pytest.mark.parametrize("mode", ["replace", "concat"])
def test_rewired_attention_is_explicit_injection_bit_for_bit(model, inputs, mode):
    with record(model.unet) as tokens, torch.no_grad():
        model.predict(*with_t(first(inputs)))
    join = {
        "replace": lambda name: lambda own: tokens[name],
        "concat": lambda name: lambda own: torch.cat([own, tokens[name].expand(own.shape[0], -1, -1)], 1),
    }[mode]
    with rewire(model.unet, lambda name, own: join(name)(own)), torch.no_grad():
        hooked = model.predict(*with_t(last(inputs)))

    explicit = fresh_model()
    explicit.unet.load_state_dict(model.unet.state_dict())
    for name, module in attentions(explicit.unet).items():
        module.set_processor(Injected(join(name)))
    with torch.no_grad():
        assert torch.equal(hooked, explicit.predict(*with_t(last(inputs))))
        assert not torch.equal(hooked, model.predict(*with_t(last(inputs))))


def with_t(pair, t=401):
    return pair[0], t, pair[1]


def test_own_tokens_or_none_change_nothing(model, inputs):
    with torch.no_grad():
        plain = model.predict(*with_t(inputs))
        for context in (lambda name, own: own, lambda name, own: None):
            with rewire(model.unet, context):
                assert torch.equal(model.predict(*with_t(inputs)), plain)


def test_recording_changes_nothing_and_saves_every_decoder_self_attention(model, inputs):
    with torch.no_grad():
        plain = model.predict(*with_t(inputs))
        with record(model.unet) as tokens:
            assert torch.equal(model.predict(*with_t(inputs)), plain)
    assert set(tokens) == set(attentions(model.unet)) and len(tokens) == 6
    assert all(name.startswith("up_blocks") and x.shape[0] == 3 for name, x in tokens.items())


@pytest.mark.parametrize("layers", [(1,), (2, 3), (4, 1), (1, 2, 3, 4)])
def test_a_tap_is_what_the_blocks_put_out_and_computes_no_more(model, inputs, layers):
    out, ran = {}, []
    handles = [
        b.register_forward_hook(lambda m, i, o, k=k: out.__setitem__(k + 1, o))
        for k, b in enumerate(model.unet.up_blocks)
    ]
    handles.append(model.unet.conv_out.register_forward_hook(lambda *_: ran.append("conv_out")))
    with torch.no_grad():
        model.predict(*with_t(inputs))
        expected = {k: out[k] for k in sorted(layers)}
        out.clear(), ran.clear()
        found = tap(model.unet, layers, *with_t(inputs))
    for handle in handles:
        handle.remove()
    assert list(found) == sorted(layers) and all(torch.equal(found[k], expected[k]) for k in layers)
    assert not ran and max(out) == max(layers)


def test_a_tap_is_differentiable(model, inputs):
    z = first(inputs)[0].double().requires_grad_()
    wide = fresh_model()
    wide.unet.load_state_dict(model.unet.state_dict())
    wide.unet.double()
    cond = {k: v[:1].double() for k, v in inputs[1].items()}
    direction = torch.randn(z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(x):
        return tap(wide.unet, (2,), x, 401, cond)[2].square().sum()

    slope = (torch.autograd.grad(value(z), z)[0] * direction).sum()
    with torch.no_grad():
        rise = (value(z + 1e-5 * direction) - value(z - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(slope, rise, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layers", [(0,), (5,), (2, 9), ()])
def test_layers_that_are_not_there_are_refused_and_the_others_named(model, inputs, layers):
    with pytest.raises(InputError, match=r"1 \(up_blocks\[0\]\), 2 .*, 4 \(up_blocks\[3\]\)"):
        tap(model.unet, layers, *with_t(inputs))
    assert hooks(model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_survives_an_exception(inputs, error):
    model = fresh_model()

    def interrupt(*_):
        raise error

    handle = model.unet.mid_block.register_forward_hook(interrupt)
    for block in (
        record(model.unet),
        rewire(model.unet, lambda n, own: own),
        features(model.unet, (2,)),
        counted(model.unet),
    ):
        with pytest.raises(error), block:
            model.predict(*with_t(inputs))
    with pytest.raises(error):
        tap(model.unet, (2, 3), *with_t(inputs))
    assert hooks(model) == 1
    handle.remove()


def test_fused_projections_are_undone_and_restored(inputs):
    model = fresh_model()

    def context(name, own):
        return own.flip(1)

    with torch.no_grad():
        with rewire(model.unet, context):
            expected = model.predict(*with_t(inputs))
        model.unet.fuse_qkv_projections()
        before = dict(model.unet.attn_processors)
        for _ in range(2):
            with unfused(model.unet), rewire(model.unet, context):
                assert torch.equal(model.predict(*with_t(inputs)), expected)
    assert model.unet.attn_processors == before and "Fused" in type(next(iter(before.values()))).__name__


def test_attention_that_looks_at_words_alone_is_no_self_attention():
    unet = fresh_model().unet
    unet.up_blocks[1].attentions[0].transformer_blocks[0].only_cross_attention = True
    assert len(attentions(unet)) == len(attentions(fresh_model().unet)) - 1


def test_a_model_without_decoder_attention_is_refused():
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        layers_per_block=1,
        cross_attention_dim=16,
    )
    for block in (record(unet), rewire(unet, lambda name, own: own)):
        with pytest.raises(InputError, match="no decoder self-attention"), block:
            pass


@pytest.mark.parametrize("preset", ["iclr", "fast"])
def test_compiled_blocks_hear_hooks_and_go_back_twice(preset):
    plain, compiled = fresh_model(), fresh_model()
    names = [f"{place}.attentions.0.transformer_blocks.0" for place in ("down_blocks.0", "up_blocks.1", "mid_block")]
    blocks = [compiled.unet.get_submodule(name) for name in names]
    for block in blocks:
        block.compile(backend="aot_eager")
    w = Guidance.preset(preset).replace(steps=3)
    keep = Record(features=(2,), attention=True)
    a, b = (edit(m, picture(64, 96), MOVE, guidance=w, progress=False, trace=keep) for m in (plain, compiled))
    assert any(a.trace.energies.values()) and torch.equal(a.latent, b.latent) and a.nfe == b.nfe
    assert a.trace.attention[0] and [looks.keys() for looks in a.trace.attention] == [
        looks.keys() for looks in b.trace.attention
    ]
    assert all(block._compiled_call_impl is not None for block in blocks)


def test_a_denoiser_compiled_as_a_whole_is_refused_with_the_remedy():
    model = fresh_model()
    model.unet = torch.compile(model.unet, backend="eager")
    with pytest.raises(InputError, match="compile its blocks instead, unet.compile_repeated_blocks"):
        edit(model, picture(64, 96), MOVE, progress=False)


def test_evaluations_are_counted_whole_or_stopped(model, inputs):
    with counted(model.unet) as count, torch.no_grad():
        model.predict(*with_t(inputs))
        tap(model.unet, (1,), *with_t(inputs))
    assert count.evaluations == 2
    with torch.no_grad():
        model.predict(*with_t(inputs))
    assert count.evaluations == 2
