"The conv and transformer bodies: official sizes, closed forms of their parts, and what must not depend on what."
import json
import pytest,torch
import torch.nn.functional as F
from torch import nn
from iutok.nets.conv import AttnBlock,ConvDecoder,ConvEncoder,Downsample,Upsample,group_norm
from iutok.nets.vit import SelfAttention,ViT,resize_positions,unpatchify

def count(net): return sum(p.numel() for p in net.parameters())
def close(a, b, tol=1e-5): torch.testing.assert_close(a, b, atol=tol, rtol=tol)

SIZES = {'f16': (ConvEncoder, {}, 29_298_176), 'f16 decoder': (ConvDecoder, {}, 42_449_795),
         'f8': (ConvEncoder, dict(mults=(1,1,2,4)), 26_345_728),
         'f8 decoder': (ConvDecoder, dict(mults=(4,2,1,1)), 38_316_163),
         'plain': (ConvEncoder, dict(attention=False, refine=False), 16_699_904),
         'plain decoder': (ConvDecoder, dict(attention=False, refine=False), 28_799_875),
         'student': (ViT, {}, 86_404_640),
         'pixel': (ViT, dict(in_channels=32, patch=1, out_channels=3, out_patch=16), 86_405_376),
         'large': (ViT, dict(in_channels=32, patch=1, out_channels=3, out_patch=16, width=1280, depth=32, heads=16),
                   632_558_848),
         **{f'feature {c}': (ViT, dict(in_channels=32, patch=1, depth=1, out_channels=c), n) for c,
            n in {512: 8_250_368, 768: 8_447_232, 1024: 8_644_096, 1280: 8_840_960}.items()}}

@pytest.mark.parametrize('cls,args,n', SIZES.values(), ids=SIZES)
def test_official_parameter_counts(cls, args, n):
    with torch.device('meta'): assert count(cls(**args)) == n

SMALL = dict(encoder=lambda: ConvEncoder(width=16, mults=(1,2,2), n_res=1, out_channels=8),
             decoder=lambda: ConvDecoder(in_channels=3, width=16, mults=(2,1), n_res=1, attention=False, refine=False),
             vit=lambda: ViT(patch=4, grid=(3, 5), width=16, depth=2, heads=2, out_channels=8),
             pixel=lambda: ViT(3, 1, grid=6, width=16, depth=1, heads=2, out_channels=3, out_patch=2))

@pytest.mark.parametrize('make', SMALL.values(), ids=SMALL)
def test_rebuilt_from_json(make):
    net = make().eval()
    again = type(net)(**json.loads(json.dumps(net.config())))
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 8, 12)
    close(again.eval()(x), net(x))
    assert net.kind

@pytest.mark.parametrize('make', SMALL.values(), ids=SMALL)
def test_images_do_not_see_each_other(make):
    net,x = make().train(),torch.randn(3, 3, 8, 12)
    close(net(x)[1:2], net(x[1:2]))

@pytest.mark.parametrize('make', SMALL.values(), ids=SMALL)
def test_every_parameter_gets_a_gradient_under_autocast(make):
    net = make()
    with torch.autocast('cpu', torch.bfloat16): out = net(torch.randn(2, 3, 8, 12))
    out.float().square().mean().backward()
    for n,p in net.named_parameters(): assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum()>0, n

@pytest.mark.parametrize('width', [16, 24, 32, 48, 64, 128, 512])
def test_group_norm_keeps_four_channels_in_a_group(width):
    g = group_norm(width)
    assert width%g.num_groups==0 and width//g.num_groups>=4 and g.eps==1e-6
    if width>=128: assert g.num_groups==32

def test_attention_is_torch_multihead_attention():
    ours,theirs = AttnBlock(32),nn.MultiheadAttention(32, 1, batch_first=True)
    theirs.in_proj_weight.data,theirs.in_proj_bias.data = ours.qkv.weight.data.flatten(1),torch.randn(96)
    theirs.out_proj.weight.data,theirs.out_proj.bias.data = ours.proj.weight.data.flatten(1),torch.randn(32)
    ours.qkv.bias.data,ours.proj.bias.data = theirs.in_proj_bias.data,theirs.out_proj.bias.data
    x = torch.randn(2, 32, 3, 5)
    tokens = ours.norm(x).flatten(2).transpose(1, 2)
    close(ours(x), x+theirs(tokens, tokens, tokens)[0].transpose(1, 2).view_as(x))
    a = AttnBlock(64)  # and it starts the way that module starts
    assert a.qkv.weight.abs().max() <= (6/(64+192))**.5
    assert a.qkv.weight.std() > .55*(6/(64+192))**.5
    assert a.qkv.bias.abs().max()==0

def test_self_attention_is_torch_multihead_attention_without_key_bias():
    ours,theirs = SelfAttention(16, 4),nn.MultiheadAttention(16, 4, batch_first=True)
    ours.q_bias.data,ours.v_bias.data = torch.randn(16),torch.randn(16)
    theirs.in_proj_weight.data,theirs.out_proj = ours.qkv.weight.data,ours.proj
    theirs.in_proj_bias.data = torch.cat([ours.q_bias.data, torch.zeros(16), ours.v_bias.data])
    x = torch.randn(2, 7, 16)
    close(ours(x), theirs(x, x, x)[0])

def test_resampling_takes_the_pixels_it_should():
    x = torch.randn(1, 1, 6, 8)
    down,up = Downsample(1),Upsample(1)
    for conv in (down.conv, up.conv): nn.init.zeros_(conv.weight); nn.init.zeros_(conv.bias)
    down.conv.weight.data[0, 0, 0, 0] = 1   # no padding at top and left: the first tap reads pixel 0
    close(down(x), x[..., ::2, ::2])
    down.conv.weight.data.zero_()[0, 0, 2, 2] = 1
    close(down(x), F.pad(x, (0, 1, 0, 1))[..., 2::2, 2::2])
    up.conv.weight.data[0, 0, 1, 1] = 1
    close(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))

def test_doubling_in_one_kernel_is_doubling_in_two_steps():
    "Values and gradients, odd and non-square grids, and single pixels."
    for shape in ((2, 5, 3, 7), (1, 5, 1, 1)):
        up,x = Upsample(5).double(),torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        ps = [x, *up.parameters()]
        one,two = up(x),up.eval()(x)
        g = torch.randn_like(one)
        assert one.shape == (*shape[:2], 2*shape[2], 2*shape[3])
        for a,b in zip([one, *torch.autograd.grad(one, ps, g)], [two, *torch.autograd.grad(two, ps, g)]):
            close(a, b, 1e-12)

def test_decoder_mirrors_encoder_grid():
    for mults in ((1,2), (1,1,2), (1,1,2,2)):
        enc,dec = ConvEncoder(width=16, mults=mults, n_res=1, out_channels=4),ConvDecoder(4, 16, mults[::-1], n_res=1)
        x = torch.randn(1, 3, 16, 32)
        z = enc(x)
        assert z.shape == (1, 4, 16//enc.factor, 32//enc.factor)
        assert dec(z).shape == x.shape
        assert enc.factor == dec.factor

@pytest.mark.parametrize('name', ['encoder', 'decoder'])
def test_the_layout_is_the_choice_of_the_weights(name):
    """Codes and uint8 images arrive channels last;
    the body must not follow them by accident, and must follow its own weights."""
    net,x = SMALL[name]().eval(),torch.randn(2, 3, 8, 12)
    nhwc = dict(memory_format=torch.channels_last)
    assert net(x.contiguous(**nhwc)).equal(net(x)) and net(x.contiguous(**nhwc)).is_contiguous()
    before = net(x)
    close(net.to(**nhwc)(x), before)
    assert net(x).is_contiguous(**nhwc)

def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match='multiples of 4'):
        ConvEncoder(width=16, mults=(1,1,1), n_res=1)(torch.zeros(1, 3, 10, 8))
    with pytest.raises(ValueError, match='multiples of 4'): SMALL['vit']()(torch.zeros(1, 3, 10, 8))
    with pytest.raises(ValueError, match='not a multiple of heads'): ViT(width=10, heads=4)
    for net,c in ((SMALL['encoder'](), 3), (SMALL['decoder'](), 3), (SMALL['vit'](), 3)):
        with pytest.raises(ValueError, match=rf'takes \(B, {c}, H, W\), got \(1, 1, 8, 8\)'):
            net(torch.zeros(1, 1, 8, 8))
        with pytest.raises(ValueError, match='takes'): net(torch.zeros(3, 8, 8))

def test_vit_starts_as_specified():
    torch.manual_seed(0)
    net = ViT(patch=4, grid=4, width=192, depth=3, heads=3)
    for i,b in enumerate(net.blocks, 1):
        for layer,std in ((b.attn.qkv, .02), (b.mlp[0], .02), (b.attn.proj, .02/(2*i)**.5), (b.mlp[2], .02/(2*i)**.5)):
            assert abs(layer.weight.std()/std-1) < .03
            if layer.bias is not None: assert layer.bias.abs().max() == 0
    for w in (net.pos_embed, net.task[0].weight, net.task[2].weight): assert abs(w.std()/.02-1) < .05
    # torch's own bound
    assert net.patch_embed.weight.abs().max() <= (1/(3*16))**.5 < 1.1*net.patch_embed.weight.abs().max()

def test_weight_decay_rule_covers_the_official_groups():
    with torch.device('meta'): ps = [*ViT().parameters(), *ViT(32, 1, depth=1, out_channels=512).parameters()]
    decayed = sum(p.numel() for p in ps if p.ndim in (2, 4))
    assert (decayed, sum(p.numel() for p in ps)-decayed, len(ps)) == (94_224_384, 430_624, 189)

def test_unpatchify_against_a_loop():
    b,h,w,p,c = 2, 2, 3, 4, 3
    t,im = torch.randn(b, h*w, p*p*c),torch.zeros(b, c, h*p, w*p)
    for n in range(h*w):
        for i in range(p):
            for j in range(p):
                for k in range(c): im[:, k, n//w*p+i, n%w*p+j] = t[:, n, (i*p+j)*c+k]
    close(unpatchify(t, (h, w), p), im)

def test_positions_of_another_grid():
    pos = torch.randn(1, 1+12, 5)
    assert resize_positions(pos, (3, 4), (3, 4)) is pos
    out = resize_positions(pos, (3, 4), (6, 2))
    assert out.shape == (1, 13, 5) and out[:, 0].equal(pos[:, 0]) and not out.equal(pos)
    flat = resize_positions(torch.ones(1, 13, 5), (3, 4), (7, 9))
    close(flat, torch.ones(1, 1+63, 5))  # a constant table stays constant at any size
