"What is asked of a Slurm cluster, by a Slurm that only takes notes."
import json, os, re, subprocess, sys
from dataclasses import asdict
from pathlib import Path
import pytest
from clone import script

ROOT = Path(__file__).parents[1]
FAKES = dict( # a job ends as soon as it is asked for, and leaves what it was to make
    sbatch='echo "$*" >> "$NOTES"\nr=$(grep -oE "run=[^\' ]+" <<< "$*" | cut -c5-)\nmkdir -p "$RUNS/$r"\n'
           'echo "{}" > "$RUNS/$r/record.json"\nwc -l < "$NOTES"',
    sacct='[ "$1" = -nu ] && { echo none; exit; }\nfor n in $(seq 1 $(wc -l < "$NOTES")); do echo "$n|COMPLETED"; done',
    sacctmgr='echo me', sinfo='echo', squeue='true', scontrol='true', scancel='true')

@pytest.fixture(scope='module')
def plugin(tmp_path_factory):
    "A folder with the plugin in it, or nothing where it is installed; it is small, and wanted on clusters alone."
    pytest.importorskip('snakemake')
    try:
        import snakemake_executor_plugin_slurm # noqa: F401
        return ''
    except ImportError: pass
    folder = tmp_path_factory.mktemp('plugin')
    names = ['snakemake-executor-plugin-slurm', 'snakemake-executor-plugin-slurm-jobstep', 'throttler']
    command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', str(folder), *names]
    try: r = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired: pytest.skip('pip could not get snakemake-executor-plugin-slurm within a minute')
    if r.returncode: pytest.skip('snakemake-executor-plugin-slurm is not installed, and pip could not get it')
    return str(folder)

def asked(tmp_path, monkeypatch, plugin, *words):
    "The sbatch calls of a call of scripts/reproduce, in a clone whose runs are nowhere near."
    for n,text in FAKES.items():
        (tmp_path/n).write_text(f'#!/bin/bash\n{text}\n')
        (tmp_path/n).chmod(0o755)
    for n in ('scripts', 'iutok', 'nbs', 'settings.ini'): (tmp_path/n).symlink_to(ROOT/n)
    monkeypatch.setattr('sys.argv', ['reproduce', *words])
    reproduce = script('reproduce')
    monkeypatch.setattr(reproduce, 'ROOT', tmp_path)
    a = reproduce.arguments()
    choice = reproduce.chosen(a)
    choice.folder.mkdir(parents=True)
    config = choice.folder/'workflow.json'
    config.write_text(json.dumps(asdict(choice) | dict(executor='slurm', cores=a.cores)))
    quick = ['--slurm-init-seconds-before-status-checks', '1', '--seconds-between-status-checks', '1']
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = os.environ | dict(NOTES=str(tmp_path/'notes'), RUNS=str(choice.folder), PATH=path,
                            PYTHONPATH=f"{ROOT}:{plugin}:{os.environ.get('PYTHONPATH', '')}")
    command = [*reproduce.command(a, choice, config), *quick]
    r = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode==0, r.stdout[-2000:]+r.stderr[-2000:]
    return {re.search(r'run=([^\' ]+)', l)[1]:l for l in (tmp_path/'notes').read_text().splitlines()}, r.stdout+r.stderr

def test_a_training_on_two_nodes_and_what_builds_on_it(tmp_path, monkeypatch, plugin):
    words = '--profile paper --slurm partition=gpu,account=me --gpus 8 --nodes 2 --data_root /tmp'.split()
    calls,said = asked(tmp_path, monkeypatch, plugin, 'vqkd-clip-s3407-decoder-codes-scores', *words)
    assert list(calls)==['vqkd-clip-s3407', 'vqkd-clip-s3407-decoder', 'vqkd-clip-s3407-decoder-codes-scores']
    for name,call in calls.items():
        options = call.partition('--wrap')[0]
        for o in ('-A me ', '-p gpu ', '-t 2880 ', '--mem 64000 '): assert o in options, (name, o)
        two = not name.endswith('-scores') # scores are one process
        assert ('--nodes=2 --ntasks=2' in options, '--gres=gpu:8' in options)==(two, two), options
        assert ('--gpus=1' in options)!=two and '--ntasks-per-gpu' not in options, options
        assert '--cpus-per-task=64' in options or '--cpus-per-gpu' in options, options
    assert '--executor slurm-jobstep' in call
