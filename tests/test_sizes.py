"What a foreign file says of its sizes is held against the file before memory is taken."
import json,struct,zipfile
from pathlib import Path
import numpy as np,pytest,torch
from safetensors import safe_open
from safetensors.torch import load_file,save_file
from iutok.files import asset
from iutok.metrics.features import load_scorer
from iutok.metrics.statistics import FeatureStats
from iutok.nets.conv import ConvDecoder,ConvEncoder
from iutok.nets.vit import ViT
from iutok.pretrained import Tokenizer
from iutok.proposals import AR,NAR,T2I,load_proposal
from iutok.proposals.text import load_captions
from iutok.quantizers import VQ,Residual
from iutok.teachers import load_teacher,read_info,teacher_file
from iutok.text_evaluation import load_matcher
from iutok.tokenizers import Connector
from iutok.training import Objective,Phase,constant,load_checkpoint,save_checkpoint

HUGE = 10**12

@pytest.fixture(autouse=True)
def little_memory(): # a size that is believed ends in a refused allocation, not in a busy machine
    import resource
    was,now = resource.getrlimit(resource.RLIMIT_AS),int(Path('/proc/self/statm').read_text().split()[0])*4096
    resource.setrlimit(resource.RLIMIT_AS, (now+2**31, was[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, was)

def small():
    torch.manual_seed(0)
    return Tokenizer(ConvEncoder(width=8, mults=(1, 1), n_res=1, out_channels=8, attention=False), VQ(8, 4),
                     ConvDecoder(8, width=8, mults=(1, 1), n_res=1, attention=False), Connector([8, 4]),
                     Connector([4, 8]), ViT(4, 1, 4, 8, 1, 2, 8), image_size=8).eval()

@pytest.fixture
def saved(tmp_path):
    small().save(tmp_path)
    return tmp_path

def describe(folder, change): # the same word in both places, as a stranger would write it
    path = folder/'tokenizer.safetensors'
    j = json.loads((folder/'tokenizer.json').read_text())
    change(j)
    (folder/'tokenizer.json').write_text(json.dumps(j))
    save_file(load_file(path), path, dict(tokenizer=json.dumps(j)))

def put(part, **config): return lambda j: j['parts'][part]['config'].update(config)
DESCRIBED = [
    put('quantizer', n_codes=HUGE), put('quantizer', n_codes=2**62), put('quantizer', n_codes=-1),
    put('quantizer', n_codes='8'), put('quantizer', dim=10**6), put('quantizer', n_codes=10**400),
    put('quantizer', colour='red'), put('encoder', width=10**6), put('encoder', mults=[1]*10**4),
    put('encoder', mults=[10**9, 1]), put('encoder', n_res=10**9), put('encoder', width=None),
    put('decoder', width=10**6), put('decoder', out_channels=HUGE), put('post_encode', channels=[8, HUGE, 4]),
    put('post_encode', channels=[8]*10**5), put('post_encode', channels=8),
    put('feature_decoder', depth=10**9), put('feature_decoder', grid=10**6), put('feature_decoder', width=10**6),
    put('feature_decoder', mlp_ratio=1e300), put('feature_decoder', mlp_ratio=float('nan')),
    put('feature_decoder', heads=0),
    lambda j: j.update(image_size=10**9), lambda j: j.update(image_size=0), lambda j: j.update(image_size='8'),
    lambda j: j.update(image_size=True) or j.update(parts=[]), lambda j: j.update(parts={}),
    lambda j: j.update(about=[]), lambda j: j.pop('hash'), lambda j: j.update(format='iutok tokenizer 2'),
    lambda j: j['parts'].update(encoder=dict(kind='vq', config=dict(n_codes=8, dim=4))),
    lambda j: j['parts'].update(quantizer=dict(kind='connector', config=dict(channels=[4, 4]))),
    lambda j: j['parts'].update(quantizer=dict(kind='vq')), lambda j: j['parts'].update(quantizer='vq'),
    lambda j: j['parts'].update(quantizer=dict(kind=['vq'], config={})),
    lambda j: j['parts'].update(more=dict(kind='vq', config=dict(n_codes=HUGE, dim=4))),
    lambda j: j['parts'].update(quantizer=dict(kind='fsq', config=dict(levels=[HUGE]))),
    lambda j: j['parts'].update(quantizer=dict(kind='lfq', config=dict(n_codes=2**62))),
    lambda j: j['parts'].update(quantizer=dict(kind='residual', config=dict(stages=[['vq', dict(n_codes=2)]]*10**4))),
    lambda j: j['parts'].update(quantizer=dict(kind='residual', config=dict(stages=[['none', {}]]))),
    lambda j: j['parts'].update(encoder=dict(kind='teacher', config=dict(name='timm:hf-hub:someone/net'))),
    lambda j: j.update(tied={'quantizer.codebook':'post_encode.0.weight'})]

@pytest.mark.parametrize('i', range(len(DESCRIBED)))
def test_a_tokenizer_that_asks_for_what_its_file_lacks_is_refused(saved, i):
    describe(saved, DESCRIBED[i])
    with pytest.raises(ValueError) as e: Tokenizer.load(saved)
    says = str(e.value)
    assert '\n' not in says and len(says)<500 and (str(saved) in says or 'image_size' in says), says
    assert 'iutok' in str(e.traceback[-1].path) # not an allocation that failed

TORN = [b'', b'{', b'[1]', b'null', b'\xff\xfe', b'['*10**5, b'{"format": "iutok tokenizer 1"}', b'9'*5000]
@pytest.mark.parametrize('raw', TORN, ids=range(len(TORN)))
def test_a_torn_description_is_refused_or_told_by_the_weights(saved, raw, capsys):
    (saved/'tokenizer.json').write_bytes(raw)
    try: tok = Tokenizer.load(saved)
    except ValueError as e: assert '\n' not in str(e) and 'tokenizer.json' in str(e)
    else: assert 'another save' in capsys.readouterr().out and tok.fingerprint()==small().fingerprint()

@pytest.mark.parametrize('raw', [b'', b'x'*99, struct.pack('<Q', 2**62)+b'{}', struct.pack('<Q', 2)+b'[]',
                                 struct.pack('<Q', 74)+b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":'
                                                        b'[0,4000000000]}}'])
def test_torn_weights_are_refused_wherever_they_are_read(saved, tmp_path, raw):
    path = tmp_path/'x.safetensors'
    for p in (saved/'tokenizer.safetensors', saved/'proposal.safetensors', path): p.write_bytes(raw)
    path.with_suffix('.json').write_text('{"network": {"classes": ["a"]}}')
    reads = [lambda: Tokenizer.load(saved), lambda: load_proposal(saved), lambda: FeatureStats.load(path),
             lambda: load_matcher(path), lambda: load_scorer(path), lambda: read_info(path),
             lambda: load_teacher('vit', weights=path), lambda: load_captions(path)]
    for read in reads:
        with pytest.raises(ValueError) as e: read()
        assert '\n' not in str(e.value) and '.safetensors' in str(e.value)

@pytest.mark.parametrize('kind', [torch.int64, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_type_are_refused(saved, kind):
    path = saved/'tokenizer.safetensors'
    with safe_open(path, 'pt') as f: said = f.metadata()
    state = load_file(path)
    save_file(state | {'quantizer.codebook':state['quantizer.codebook'].to(kind)}, path, said)
    with pytest.raises(ValueError, match='quantizer.codebook is held as'): Tokenizer.load(saved)

NETS = dict(ar=lambda: AR(8, 3, 4, layers=1, width=8, heads=2), nar=lambda: NAR(8, 3, 4, layers=1, width=8, heads=2),
            gpt2=lambda: AR(8, 3, 4, layers=1, width=8, heads=2, arch='gpt2'),
            t2i=lambda: T2I('ar', 8, 4, text_width=8, text_tokens=4, tower='a', layers=1, width=8, heads=2))
ASKED = [dict(n_codes=HUGE), dict(length=10**9), dict(layers=10**9), dict(width=10**6), dict(mlp=HUGE),
         dict(positions=HUGE), dict(heads=0), dict(n_codes='8'), dict(layers=None), dict(width=float('nan')),
         dict(drop_label=2), dict(order='spiral', length=10**12), dict(length=2**40)]
@pytest.mark.parametrize('net', NETS)
@pytest.mark.parametrize('ask', ASKED, ids=str)
def test_a_network_that_asks_for_what_its_file_lacks_is_refused(saved, net, ask):
    tok,net = Tokenizer.load(saved),NETS[net]()
    path = net.save(saved, tok)
    with safe_open(path, 'pt') as f: said = json.loads(f.metadata()['proposal'])
    if 'positions' in ask and not net.config().get('positions'): return # no size of this network
    said['config'] |= ask
    save_file(load_file(path), path, dict(proposal=json.dumps(said)))
    with pytest.raises(ValueError, match='not hold the weights that its header') as e: load_proposal(saved)
    assert '\n' not in str(e.value)

def npz(path, shapes, packed=zipfile.ZIP_STORED): # arrays that say to be larger than they are
    with zipfile.ZipFile(path, 'w', packed) as z:
        for name,shape in shapes.items():
            head = repr(dict(descr='<f8', fortran_order=False, shape=shape)).encode().ljust(117)+b'\n'
            z.writestr(f'{name}.npy', b'\x93NUMPY\x01\x00'+struct.pack('<H', 118)+head+bytes(64))

@pytest.mark.parametrize('shapes', [dict(mu=(HUGE,), sigma=(HUGE, HUGE)), dict(mu=(2,), sigma=(10**6, 10**6)),
                                    dict(mu=(2,), sigma=(2, 9)), dict(mu=(2,), sigma=(2, 3)), dict(mu=(2,)),
                                    dict(mu=(2**15,), sigma=(2**15, 2**15)), dict(mu=(), sigma=(2, 2)),
                                    dict(mu=(-1,), sigma=(-1, -1))])
def test_statistics_larger_than_their_file_are_refused(tmp_path, shapes):
    npz(tmp_path/'fid.npz', shapes)
    with pytest.raises(ValueError, match='^fid.npz is no file of') as e: FeatureStats.load(tmp_path/'fid.npz')
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('n', ['0', '-5', '1.5', '"many"', '[', '['*10**5])
def test_statistics_that_lie_about_their_images_are_refused(tmp_path, n):
    path = tmp_path/'a.safetensors'
    said = dict(n=n, made_by='null', images='"x"')
    save_file(dict(mu=torch.zeros(2).double(), sigma=torch.eye(2).double()), path, said)
    with pytest.raises(ValueError) as e: FeatureStats.load(path)
    assert '\n' not in str(e.value)
    save_file(dict(mu=torch.zeros(2)), path, said)
    with pytest.raises(ValueError, match='a.safetensors is no file of statistics'): FeatureStats.load(path)
    np.savez(tmp_path/'b.npz', mu=np.zeros(2), sigma=np.eye(2))
    assert FeatureStats.load(tmp_path/'b.npz').n is None

@pytest.mark.parametrize('ask', [dict(embed_dim=10**6), dict(depth=10**9), dict(img_size=10**6), dict(num_heads=0),
                                 dict(colour='red'), dict(embed_dim='24'), dict(patch_size=0)], ids=str)
def test_a_teacher_that_asks_for_what_its_file_lacks_is_refused(tmp_path, ask):
    path = tmp_path/'vit.safetensors'
    with safe_open(teacher_file('vit'), 'pt') as f: said = f.metadata()
    save_file(load_file(teacher_file('vit')), path, said | dict(config=json.dumps(json.loads(said['config'])|ask)))
    with pytest.raises(ValueError, match='vit.safetensors') as e: load_teacher('vit', weights=path)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('ask', [dict(length=10**6), dict(dim=10**6), dict(words=[1]), dict(image={}), 'none'], ids=str)
def test_a_matcher_that_asks_for_what_its_file_lacks_is_refused(tmp_path, ask):
    path,own = tmp_path/'m.safetensors',asset('emoji_matcher.safetensors')
    with safe_open(own, 'pt') as f: config = json.loads(f.metadata()['config'])
    save_file(load_file(own), path, {} if ask=='none' else dict(config=json.dumps(config|ask)))
    with pytest.raises(ValueError, match='m.safetensors holds no Matcher'): load_matcher(path)

@pytest.mark.parametrize('network', [dict(widths=[10**6]*6), dict(widths=[8]*10**4, strides=[1]*10**4), dict(size='x'),
                                     dict(channels=HUGE), None, [], dict(classes=7), dict(colour='red')], ids=str)
def test_a_scorer_that_asks_for_what_its_file_lacks_is_refused(tmp_path, network):
    path = tmp_path/'s.safetensors'
    save_file(load_file(asset('fashion_cnn.safetensors')), path)
    own = json.loads(asset('fashion_cnn.json').read_text())
    network = own['network']|network if isinstance(network, dict) else network
    path.with_suffix('.json').write_text(json.dumps(own|dict(network=network)))
    if network==own['network']|dict(size='x'): return # no size of a tensor
    with pytest.raises(ValueError, match='does not hold the weights of the Scorer'): load_scorer(path)

@pytest.mark.parametrize('harm', [lambda s: s.pop('phases'), lambda s: s.update(phases=3), lambda s: s.pop('rng'),
                                  lambda s: s['phases']['a'].pop('optimizer'), lambda s: s['phases'].update(b={}),
                                  lambda s: s['phases']['a'].update(module={'module.weight':torch.zeros(9, 9)})])
def test_a_checkpoint_of_another_shape_is_refused(tmp_path, harm):
    def phase():
        m = Objective(torch.nn.Linear(2, 2), lambda n,b: n(b[0]).sum())
        return dict(a=Phase(m, torch.optim.SGD(m.parameters(), .1), constant(.1)))
    path = save_checkpoint(tmp_path/'checkpoint.pt', phase(), 3, 'me')
    state = torch.load(path, weights_only=True)
    harm(state)
    for p in tmp_path.iterdir(): p.unlink() # as somebody hands it over, without digests
    torch.save(state, path)
    with pytest.raises(ValueError, match='checkpoint.pt') as e: load_checkpoint(path, phase(), 'me')
    assert '\n' not in str(e.value)

def test_one_parameter_of_two_names_stays_one(tmp_path):
    vq = VQ(8, 4)
    tok = small()
    tok.quantizer = Residual([vq, vq])
    tok.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    a,b = again.quantizer.stages
    assert a.codebook is b.codebook and again.fingerprint()==tok.fingerprint()
    assert sum(p.numel() for p in again.parameters())==sum(p.numel() for p in tok.parameters())
    with torch.no_grad(): a.codebook += 1
    assert torch.equal(again.quantizer.codebook, again.quantizer.lookup(torch.arange(64)))
