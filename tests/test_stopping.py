"""Ctrl-C and SIGTERM at a run's command and at a notebook's kernel: a checkpoint, one sentence, and the same command
goes on."""
import json,os,signal,subprocess,sys,threading,time
from pathlib import Path
import pytest,torch
from clone import script

ROOT = Path(__file__).parents[1]

def step_of(folder):
    try: return json.loads((folder/'progress.json').read_text())['step']
    except (OSError, ValueError): return 0

def stopped(folder, how, least): # a run of many steps that is asked to stop after some -> what it said
    command = [sys.executable, 'scripts/run', 'train_fsq', 'profile=smoke', 'steps=100000', f'run_root={folder.parent}',
               f'name={folder.name}']
    p = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env=os.environ | dict(PYTHONPATH=str(ROOT)), # not as a job in the background
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    deadline = time.time()+900
    while step_of(folder)<=least:
        assert time.time()<deadline and p.poll() is None, p.communicate()[0]
        time.sleep(.2)
    if how==signal.SIGKILL: # the page's process, as a machine without memory does
        [page] = Path(f'/proc/{p.pid}/task/{p.pid}/children').read_text().split()
        os.kill(int(page), how)
    else: p.send_signal(how)
    said = p.communicate(timeout=300)[0]
    assert p.returncode not in (0, None)
    return said

def test_a_run_stops_with_a_checkpoint_and_goes_on(tmp_path):
    folder,done = tmp_path/'fsq',0
    for how in (signal.SIGINT, signal.SIGTERM):
        said = stopped(folder, how, done)
        last = [l for l in said.splitlines() if l.strip()][-1]
        assert last.startswith('scripts/run: train_fsq: The run was asked to stop and did after step'), said
        assert 'Traceback' not in said and not list(folder.glob('error*'))
        step = torch.load(folder/'checkpoint.pt', weights_only=True)['step']
        assert f'after step {step} of 100000' in last and step>done
        done = step
    shown = json.loads((folder/'notebook.ipynb').read_text())
    assert any(o.get('ename')=='Stopped' for c in shown['cells'] for o in c.get('outputs', []))
    said = stopped(folder, signal.SIGKILL, done)
    assert 'scripts/run: train_fsq has lost its process: it was killed, or memory ran out.' in said
    assert 'Traceback' not in said

CELL = """
import torch
from torch import nn
from iutok.training import Phase,constant,fit
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)
    def forward(self, batch, step): return self.net(batch[0]).square().mean(),{}
class Data:
    def __getitem__(self, step):
        if step>2: time.sleep(.3)
        return torch.randn(4, 6),
net = Net()
phase = Phase(net, torch.optim.SGD(net.parameters(), .1), constant(.1))
import time
print('begins', flush=True)
fit(dict(a=phase), Data(), 1000, FOLDER, workers=2)
"""

def test_a_kernel_that_is_interrupted_shows_one_sentence(tmp_path): # as JupyterLab's square does
    manager = pytest.importorskip('jupyter_client').KernelManager(kernel_name='python3')
    manager.start_kernel(env=os.environ | dict(PYTHONPATH=str(ROOT)))
    try:
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=300)
        client.execute(CELL.replace('FOLDER', repr(str(tmp_path))))
        asked = time.time()+300
        while step_of(tmp_path)<1:
            assert time.time()<asked
            time.sleep(.1)
        manager.interrupt_kernel()
        while (m := client.get_iopub_msg(timeout=300))['msg_type']!='error': pass
        assert m['content']['ename']=='Stopped'
        [shown] = m['content']['traceback'] # a line
        assert 'the same command goes on from there' in shown
        step = torch.load(tmp_path/'checkpoint.pt', weights_only=True)['step']
        assert f'after step {step} of 1000' in m['content']['evalue']
    finally:
        manager.shutdown_kernel(now=True)

@pytest.mark.parametrize('finished', [7, 8, None]) # steps of the record that the first process leaves
def test_one_process_at_a_time_is_at_work_in_a_folder(tmp_path, finished):
    run,left,said,values = script('run'),[],[],dict(steps=7, name='a', run_root='/b')
    run.print = lambda text, **kw: said.append(text) # what is captured can be lost while it is read
    def second():
        try:
            with run.claim(tmp_path, values) as wanted: left.append(wanted)
        except SystemExit as e: left.append(str(e))
    with run.claim(tmp_path, values) as wanted:
        assert wanted
        other = threading.Thread(target=second)
        other.start()
        until = time.time()+60
        while not any('this one waits' in t for t in said):
            assert time.time()<until
            time.sleep(.01)
        assert not left
        if finished: (tmp_path/'record.json').write_text(f'{{"params": {{"steps": {finished}}}}}')
    other.join(60)
    if finished==8: assert 'steps was 8 and would be 7' in left[0] and 'take another name=NAME' in left[0]
    else: assert left==[not finished] # where the first has finished the run, there is nothing left to do

def test_a_full_disk_ends_a_run_with_one_sentence(tmp_path, monkeypatch):
    run = script('run')
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(run, 'execute', full)
    monkeypatch.setenv('IUTOK_HERE', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='No space left on device.*same command goes on from the last checkpoint'):
        run.main(['train_vqgan', 'profile=smoke', 'run_root=runs'])
