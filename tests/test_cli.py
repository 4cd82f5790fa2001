"The command iutok: what it writes, what it refuses, and how it says so."
import json,os,subprocess,sys
from pathlib import Path
import pytest,torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from iutok import cli
from iutok.data import load_images
from iutok.pretrained import Tokenizer,shipped

ROOT = Path(__file__).parents[1]

@pytest.fixture
def say(tmp_path, monkeypatch, capsys): # -> exit code, what was printed, what was complained about
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('IUTOK_HERE', '') # and whatever a script sets is gone afterwards
    def run(*args):
        code = cli.main([*map(str, args)])
        out,err = capsys.readouterr()
        return code,out,err
    return run

@pytest.fixture
def pictures(tmp_path): # two files, the second not square
    for i,side in enumerate(((32, 32), (50, 70))):
        x = load_images('fashion', 'test').uint8(i, 32).permute(1, 2, 0).numpy()
        Image.fromarray(x).resize(side).save(tmp_path/f'{i}.png')
    return ['0.png', '1.png']

def test_codes_are_those_of_the_library_and_come_back_as_its_images(say, pictures, tmp_path):
    assert say('encode', *pictures, '--tokenizer', 'quick/fsq', '--picture', 'seen.png')[0]==0
    tok = Tokenizer.from_pretrained('quick/fsq')
    ids = load_file(tmp_path/'codes.safetensors')['ids']
    assert torch.equal(ids.long(), tok.encode([tmp_path/p for p in pictures])) and (tmp_path/'seen.png').exists()
    assert say('decode', 'codes.safetensors', '--out', 'each')[0]==0
    want = (tok.decode(ids.long())*255).round().byte()
    for i,path in enumerate(sorted((tmp_path/'each').iterdir())):
        assert Image.open(path).tobytes()==want[i].permute(1, 2, 0).numpy().tobytes()
    assert say('decode', 'codes.safetensors', '--out', 'all.jpg')[0]==0
    assert Image.open(tmp_path/'all.jpg').format=='JPEG'

def test_a_folder_is_its_pictures_by_name(say, pictures, tmp_path):
    (tmp_path/'some').mkdir()
    for p in pictures: (tmp_path/p).rename(tmp_path/'some'/p)
    (tmp_path/'some'/'notes.txt').write_text('no picture')
    for out,what in (('a', ['some/']), ('b', ['some/0.png', 'some/1.png'])):
        code,said,err = say('encode', *what, '--tokenizer', 'quick/fsq', '--out', f'{out}.safetensors')
        assert code==0 and said.startswith('2 pictures'), err
    a,b = (load_file(tmp_path/f'{k}.safetensors')['ids'] for k in 'ab')
    assert torch.equal(a, b)
    with safe_open(tmp_path/'a.safetensors', 'pt') as f: assert json.loads(f.metadata()['images'])==what

def test_samples_depend_on_the_seed_alone(say, tmp_path):
    for out,seed in (('a', 0), ('b', 0), ('c', 1)):
        how = ('--tokenizer', 'quick/vqgan', '--classes', '3,Bag', '--n', 2, '--seed', seed, '--out', f'{out}.png')
        assert say('sample', *how)[0]==0
    a,b,c = ((tmp_path/f'{k}.png').read_bytes() for k in 'abc')
    assert a==b!=c and Image.open(tmp_path/'a.png').size==(2*66-2, 2*66-2)

def test_scores_are_those_of_evaluation_and_the_doctor_looks(say, tmp_path):
    code,out,_ = say('evaluate', '--tokenizer', 'quick/fsq', '--train', 300, '--held', 200)
    told = json.loads((tmp_path/'scores.json').read_text())
    assert code==0 and {'usage', 'rfd', 'ppl', 'gfd'}<={*told['metrics']} and 'gfd' in out
    assert told['protocol']['n_reference']==200
    code,out,_ = say('doctor', '--tokenizer', 'quick/fsq', '--n', 100)
    assert code==0 and 'usage' in out and 'class' in out

def test_a_folder_of_pictures_is_tokenised_once(say, pictures, tmp_path):
    for s in ('train', 'test'):
        for c in 'ab':
            (tmp_path/'set'/s/c).mkdir(parents=True)
            for i,p in enumerate(pictures): Image.open(tmp_path/p).rotate(90*i).save(tmp_path/'set'/s/c/p)
    args = 'tokenize', '--data', f"folder:{tmp_path/'set'}", '--tokenizer', 'quick/fsq', '--views', 'flip'
    code,out,err = say(*args)
    assert code==0, err
    assert '4 images in 2 views' in out and say(*args)[1]==out

@pytest.mark.parametrize('args, why', [
    (['encod'], "there is no command 'encod'"), (['encode'], 'images'), (['encode', 'cat.png'], 'no picture cat.png'),
    (['encode', 'empty'], 'no picture in empty'),
    (['encode', '0.png', '--size', '3'], 'unrecognized arguments: --size'),
    (['encode', '0.png', '--tokenizer', 'mini/none'], 'no tokenizer of this package'),
    (['decode', 'none.safetensors'], 'no file none.safetensors'), (['decode', '0.png'], 'holds no codes'),
    (['sample', '--classes', 'Hat'], "no class 'Hat'"), (['sample', '--n', '0'], 'n must be a whole number'),
    (['sample', '--n', 'x'], 'invalid'), (['doctor', '--n', '-1'], 'n must be'),
    (['tokenize', '--data', 'x'], 'not known'), (['sample', '--n', '99999999999'], 'n must be'),
    (['encode', '0.png', '--out', '.'], 'is a folder'), (['encode', '0.png', '--out', '1.png/x'], 'is a file'),
    (['encode', '0.png', '--picture', '.'], 'is a folder'), (['encode', '0.png', '--picture', 'p.xyz'], 'as a picture'),
    (['sample', '--out', 'p.xyz'], 'as a picture'), (['sample', '--prompts', 'a cat'], 'say --classes'),
    (['sample', '--scale', 'nan'], 'scale must be'), (['sample', '--temperature', '0'], 'temperature'),
    (['train', 'vqgan'], 'runs the notebooks of a clone'), (['reproduce'], 'git clone'), (['verify'], 'git clone')])
def test_what_is_wrong_is_said_in_one_sentence_with_exit_code_2(say, pictures, args, why):
    Path('empty').mkdir()
    before = sorted(Path('.').rglob('*'))
    code,_,err = say(*args) # tmp_path is no clone
    assert sorted(Path('.').rglob('*'))==before # nothing is written on the way
    assert code==2 and why in err and err.count('\n')==1 and err.startswith('iutok: ')

def test_a_clone_gets_the_words_as_they_are(say, tmp_path, monkeypatch):
    (tmp_path/'settings.ini').write_text('lib_name = iutok')
    (tmp_path/'scripts').mkdir()
    for s in ('run', 'reproduce', 'verify'): (tmp_path/'scripts'/s).touch()
    calls = []
    monkeypatch.setattr(cli.subprocess, 'run', lambda a: calls.append(a[1:]) or subprocess.CompletedProcess(a, 3))
    for args in (['train', 'vqgan', 'steps=3'], ['train', 'train_ar'], ['train', '--help'],
                 ['reproduce', 'emoji', '-n']):
        assert say(*args)[0]==3
    assert calls==[['train_vqgan', 'steps=3'], ['train_ar'], ['--help'], ['emoji', '-n']]

def test_help_names_every_command_and_every_option(say, capsys):
    out = say()[1]
    assert all(f'\n  {c}' in out for c in [*cli.COMMANDS, *cli.CLONE]) and all(n in out for n in shipped())
    for c in cli.COMMANDS:
        with pytest.raises(SystemExit) as e: cli.main([c, '--help'])
        assert e.value.code==0
        text = capsys.readouterr().out
        assert text.startswith(f'usage: iutok {c}')
        # without underscores, which fastcore 1 and 2 spell differently
        assert all(a.help and '_' not in a.dest for a in cli.parser(c)._actions)

def test_bash_completes_commands_options_and_tokenizers(say, tmp_path):
    (tmp_path/'iutok.sh').write_text(say('completion')[1])
    def complete(*words):
        line = ' '.join(f'"{w}"' for w in words)
        code = f'source iutok.sh; COMP_WORDS=({line}); COMP_CWORD={len(words)-1}; _iutok; echo "${{COMPREPLY[@]}}"'
        out = subprocess.run(['bash', '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        return out.split()
    assert complete('iutok', 'enc')==['encode'] and {'train', 'verify', 'completion'}<={*complete('iutok', '')}
    assert complete('iutok', 'encode', '--t')==['--tokenizer']
    assert complete('iutok', 'sample', '--tokenizer', 'quick/v')==['quick/vqgan', 'quick/vqkd-effnet']

def test_help_needs_no_network_library():
    code = ('import sys\nfrom iutok.cli import main\nmain([])\n'
            'print([m for m in ("timm", "torchvision", "transformers") if m in sys.modules])')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT,
                         env=os.environ | dict(PYTHONPATH=str(ROOT))).stdout
    assert out.splitlines()[-1]=='[]'

@pytest.mark.parametrize('words', ['', 'completion', 'encode --help'])
def test_a_reader_that_has_gone_is_no_error(words): # as after `| head -1`
    r,w = os.pipe()
    os.close(r)
    code = 'import sys; from iutok.cli import main; sys.exit(main())'
    done = subprocess.run([sys.executable, '-c', code, *words.split()], stdout=w, stderr=subprocess.PIPE, text=True,
                          cwd=ROOT, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    os.close(w)
    assert done.stderr=='' and done.returncode in (0, 141)
