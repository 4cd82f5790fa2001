"""Sampling against Hugging Face's `generate` with a static cache, at the same weights: tokens a second, on this CPU.

GPT-2 medium, 256 tokens, batch 8, filtered as the paper does; and the mini network, 64 tokens, batch 256. A row tells
seconds for the whole batch. Fewer layers and tokens for a quick look: LAYERS=6 TOKENS=32 scripts/bench sampling
"""
import importlib.util, os
import torch
from _measure import medians, missing, row
from iutok.precision import fast_bfloat16
from iutok.proposals.ar import AR, AR_SIZES
from iutok.proposals.published import load_hf
from iutok.sampling import in_bfloat16, sample

HAVE = importlib.util.find_spec('transformers') is not None
PEER = 'transformers generate'
LAYERS,TOKENS,RUNS = (int(os.environ.get(k, v)) for k,v in (('LAYERS', 24), ('TOKENS', 256), ('RUNS', 3)))
FILTER,SCALE = dict(top_k=600, top_p=.92),1.75

def pair(n_codes, n_classes, length, arch, layers, width, heads, mlp, positions=None):
    "Our network and Hugging Face's, with the same random weights."
    import transformers as hf
    torch.manual_seed(0)
    ar = AR(n_codes, n_classes, length, layers, width, heads, mlp, arch, positions=positions)
    ids = dict(vocab_size=ar.vocab, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    if arch=='gpt2':
        net = hf.GPT2LMHeadModel(hf.GPT2Config(n_positions=positions, n_embd=width, n_layer=layers, n_head=heads,
                                               n_inner=mlp, **ids))
    else:
        net = hf.LlamaForCausalLM(hf.LlamaConfig(hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
                                                 num_attention_heads=heads, rms_norm_eps=1e-5, **ids))
    return load_hf(ar, net.state_dict()).eval(),net.eval()

def sides(ar, net, batch, bf16=False, scale=1.):
    "Two functions that sample one batch."
    y = torch.arange(batch)%ar.n_classes
    if bf16: ar,net = in_bfloat16(ar),net.bfloat16()
    guided = {} if scale==1 else dict(guidance_scale=scale, negative_prompt_ids=torch.full((batch, 1), ar.null))
    def theirs():
        with torch.no_grad():
            z = net.generate(y[:,None], attention_mask=torch.ones(batch, 1).long(), do_sample=True, temperature=1.,
                             max_new_tokens=ar.length, min_new_tokens=ar.length, cache_implementation='static',
                             **FILTER, **guided)
        assert z.shape==(batch, 1+ar.length)
    return lambda: sample(ar, y, scale=scale, **FILTER),theirs

def rows():
    "All results; the ratio is of seconds, so 1/1.3 is 1.3 times the tokens a second."
    mini = AR_SIZES['small']
    shapes = [(f'GPT-2 medium, {LAYERS} layers, {TOKENS} tokens, batch 8', 8,
               (8192, 1000, TOKENS), AR_SIZES['gpt2_medium'] | dict(layers=LAYERS), (1/1.3, 1/1.8)),
              ('mini, 64 tokens, batch 256', 256, (512, 10, 64), mini, (1/1.5, 1/1.5))]
    for name,batch,sizes,kw,aims in shapes:
        for bf16 in (False, True)[:1+fast_bfloat16()]:
            for scale,aim in zip((1., SCALE), aims):
                work = f"{name}, {'bf16' if bf16 else 'fp32'}{', guided' if scale!=1 else ''}"
                if not HAVE:
                    yield missing(work, PEER, 's', aim)
                    continue
                ours,theirs = sides(*pair(*sizes, **kw), batch, bf16, scale)
                yield row(work, PEER, *medians(ours, theirs, runs=RUNS), 's', aim)
