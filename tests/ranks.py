"Two processes of one job, as torchrun starts them on a machine without a GPU."
import os,socket,subprocess,sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

def start_two(*args): # python's arguments -> both processes
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    shared = os.environ | dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE='2', LOCAL_WORLD_SIZE='2',
                               ACCELERATE_USE_CPU='true', CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1',
                               PYTHONPATH=f'{ROOT}:{ROOT/"tests"}')
    return [subprocess.Popen([sys.executable, *args], env=shared | dict(RANK=r, LOCAL_RANK=r), cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for r in '01']

def finish(processes, timeout=300): # seconds; fails with what they said
    try: logs = [p.communicate(timeout=timeout)[0] for p in processes]
    finally:
        for p in processes: p.kill()
    assert [p.returncode for p in processes]==[0, 0], '\n'.join(logs)[-3000:]
